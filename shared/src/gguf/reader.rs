//! Reading: every count, length and offset is checked before it is used.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};

use super::{ARCHITECTURE_KEY, BlockType, DEFAULT_ALIGNMENT, GgufError, Value, dequantise};

/// Most tensors in a file; the largest open models have a few thousand.
const TENSORS_MAX: u64 = 1 << 16;
/// Most metadata keys; real files have some dozens.
const META_MAX: u64 = 1 << 16;
/// Most array elements in all metadata together: a vocabulary of 256 Ki with scores, types and merges is a quarter of it.
/// Bounded because an element of one byte in the file takes 32 in memory.
const ARRAY_ELEMS_MAX: u64 = 1 << 22;
/// Arrays of arrays nest at most this deep.
const ARRAY_DEPTH_MAX: u32 = 4;
/// ggml's own limit on dimensions.
const DIMENSIONS_MAX: u32 = 4;
/// Longest key or tensor name in bytes (the format says 65,535 for keys).
const NAME_BYTES_MAX: u64 = 65_535;

/// A parsed file. Clones share its bytes.
#[derive(Debug, Clone)]
pub struct Gguf {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    bytes: Vec<u8>,
    meta: BTreeMap<String, Value>,
    tensors: Vec<Info>,
    by_name: HashMap<String, usize>,
}

#[derive(Debug)]
struct Info {
    name: String,
    shape: Vec<usize>,
    block: BlockType,
    start: usize,
    end: usize,
}

/// One tensor of a [`Gguf`].
#[derive(Debug, Clone, PartialEq)]
pub struct TensorView<'a> {
    /// Name in the file.
    pub name: &'a str,
    /// Row-major, outermost first: `[out, in]` of a linear layer.
    pub shape: Vec<usize>,
    /// How the values are stored.
    pub block: BlockType,
    /// The blocks, row after row.
    pub data: &'a [u8],
}

impl TensorView<'_> {
    /// Number of values.
    pub fn elems(&self) -> usize {
        self.shape.iter().product()
    }

    /// All values as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        dequantise(self.block, self.data).expect("the reader has checked that these are whole blocks")
    }
}

impl Gguf {
    /// Reads a file into memory and parses it.
    ///
    /// # Errors
    /// [`GgufError::Io`] or whatever [`Gguf::parse`] says.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, GgufError> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| GgufError::Io { path: path.display().to_string(), source })?;
        Self::parse(bytes)
    }

    /// Parses a whole file.
    ///
    /// # Errors
    /// A [`GgufError`] that names what is wrong; never panics, and allocates no more than a small multiple of the input.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, GgufError> {
        let mut r = Cursor { bytes: &bytes, at: 0, array_elems: 0 };
        let magic = r.take(4, "the magic")?;
        if magic != b"GGUF" {
            return Err(GgufError::Magic(magic.to_vec()));
        }
        let version = r.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version(version));
        }
        let tensor_count = within("the number of tensors", r.u64("the number of tensors")?, TENSORS_MAX)?;
        let meta_count = within("the number of metadata keys", r.u64("the number of metadata keys")?, META_MAX)?;

        let mut meta = BTreeMap::new();
        for _ in 0..meta_count {
            let key = r.string("a metadata key", NAME_BYTES_MAX)?;
            let kind = r.u32("a metadata type")?;
            let value = r.value(&key, kind, 0)?;
            if meta.insert(key.clone(), value).is_some() {
                return Err(GgufError::Duplicate(key));
            }
        }
        let alignment = match meta.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(v) => {
                let a = v.as_u64().unwrap_or(0);
                if !a.is_power_of_two() || !(8..=65536).contains(&a) {
                    return Err(GgufError::Alignment(a));
                }
                a as usize
            }
        };
        let mut tensors = Vec::new();
        let mut by_name = HashMap::new();
        for _ in 0..tensor_count {
            let info = r.tensor_info(alignment)?;
            if by_name.insert(info.name.clone(), tensors.len()).is_some() {
                return Err(GgufError::Duplicate(info.name));
            }
            tensors.push(info);
        }
        // Offsets in the file count from the first aligned byte after the descriptions.
        let base = r.at.next_multiple_of(alignment);
        for info in &mut tensors {
            let end = info.end.checked_add(base).filter(|&end| end <= bytes.len()).ok_or(GgufError::Truncated {
                what: "tensor data",
                need: (info.end as u64).saturating_add(base as u64),
                have: bytes.len() as u64,
            })?;
            info.start += base;
            info.end = end;
        }
        Ok(Self { inner: Arc::new(Inner { bytes, meta, tensors, by_name }) })
    }

    /// The file as it was read.
    pub fn bytes(&self) -> &[u8] {
        &self.inner.bytes
    }

    /// All metadata, by key.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.inner.meta
    }

    /// One metadata value.
    pub fn meta(&self, key: &str) -> Option<&Value> {
        self.inner.meta.get(key)
    }

    /// The model's architecture.
    ///
    /// # Errors
    /// See [`Gguf::str`].
    pub fn architecture(&self) -> Result<&str, GgufError> {
        self.str(ARCHITECTURE_KEY)
    }

    /// A string.
    ///
    /// # Errors
    /// [`GgufError::NoMeta`], [`GgufError::MetaType`].
    pub fn str(&self, key: &str) -> Result<&str, GgufError> {
        self.typed(key, "a string", Value::as_str)
    }

    /// An unsigned number of at most 32 bits, whatever integer type holds it.
    ///
    /// # Errors
    /// [`GgufError::NoMeta`], [`GgufError::MetaType`].
    pub fn u32(&self, key: &str) -> Result<u32, GgufError> {
        self.typed(key, "an unsigned integer of 32 bits", |v| v.as_u64()?.try_into().ok())
    }

    /// A float.
    ///
    /// # Errors
    /// [`GgufError::NoMeta`], [`GgufError::MetaType`].
    pub fn f32(&self, key: &str) -> Result<f32, GgufError> {
        self.typed(key, "a float", Value::as_f32)
    }

    /// A boolean.
    ///
    /// # Errors
    /// [`GgufError::NoMeta`], [`GgufError::MetaType`].
    pub fn bool(&self, key: &str) -> Result<bool, GgufError> {
        self.typed(key, "a boolean", |v| if let Value::Bool(b) = v { Some(*b) } else { None })
    }

    /// An array of strings.
    ///
    /// # Errors
    /// [`GgufError::NoMeta`], [`GgufError::MetaType`].
    pub fn strs(&self, key: &str) -> Result<Vec<&str>, GgufError> {
        self.typed(key, "an array of strings", |v| v.as_array()?.iter().map(Value::as_str).collect())
    }

    /// An array of unsigned numbers of at most 32 bits.
    ///
    /// # Errors
    /// [`GgufError::NoMeta`], [`GgufError::MetaType`].
    pub fn u32s(&self, key: &str) -> Result<Vec<u32>, GgufError> {
        self.typed(key, "an array of unsigned integers of 32 bits", |v| {
            v.as_array()?.iter().map(|v| v.as_u64()?.try_into().ok()).collect()
        })
    }

    /// An array of floats.
    ///
    /// # Errors
    /// [`GgufError::NoMeta`], [`GgufError::MetaType`].
    pub fn f32s(&self, key: &str) -> Result<Vec<f32>, GgufError> {
        self.typed(key, "an array of floats", |v| v.as_array()?.iter().map(Value::as_f32).collect())
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<T, GgufError> {
        let value = self.meta(key).ok_or_else(|| GgufError::NoMeta(key.to_owned()))?;
        read(value).ok_or_else(|| GgufError::MetaType { key: key.to_owned(), expected, found: value.kind() })
    }

    /// One tensor.
    ///
    /// # Errors
    /// [`GgufError::NoTensor`].
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, GgufError> {
        let at = self.inner.by_name.get(name).ok_or_else(|| GgufError::NoTensor(name.to_owned()))?;
        Ok(self.view(&self.inner.tensors[*at]))
    }

    /// Whether there is a tensor of that name.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.inner.by_name.contains_key(name)
    }

    /// All tensors, in the order of the file.
    pub fn tensors(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.inner.tensors.iter().map(|info| self.view(info))
    }

    fn view<'a>(&'a self, info: &'a Info) -> TensorView<'a> {
        TensorView {
            name: &info.name,
            shape: info.shape.clone(),
            block: info.block,
            data: &self.inner.bytes[info.start..info.end],
        }
    }
}

fn within(what: &'static str, found: u64, limit: u64) -> Result<u64, GgufError> {
    if found > limit { Err(GgufError::Limit { what, found, limit }) } else { Ok(found) }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    array_elems: u64,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], GgufError> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or(GgufError::Truncated {
            what,
            need: (self.at as u64).saturating_add(n as u64),
            have: self.bytes.len() as u64,
        })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        Ok(self.take(N, what)?.try_into().expect("take returns the length asked for"))
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn string(&mut self, what: &'static str, limit: u64) -> Result<String, GgufError> {
        let len = within(what, self.u64(what)?, limit)?;
        let bytes = self.take(usize::try_from(len).unwrap_or(usize::MAX), what)?;
        Ok(std::str::from_utf8(bytes).map_err(|_| GgufError::Text(what))?.to_owned())
    }

    fn value(&mut self, key: &str, kind: u32, depth: u32) -> Result<Value, GgufError> {
        const WHAT: &str = "a metadata value";
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.array(WHAT)?)),
            1 => Value::I8(i8::from_le_bytes(self.array(WHAT)?)),
            2 => Value::U16(u16::from_le_bytes(self.array(WHAT)?)),
            3 => Value::I16(i16::from_le_bytes(self.array(WHAT)?)),
            4 => Value::U32(u32::from_le_bytes(self.array(WHAT)?)),
            5 => Value::I32(i32::from_le_bytes(self.array(WHAT)?)),
            6 => Value::F32(f32::from_le_bytes(self.array(WHAT)?)),
            7 => Value::Bool(u8::from_le_bytes(self.array(WHAT)?) != 0),
            8 => Value::String(self.string("a metadata string", u64::MAX)?),
            9 => {
                let elem = self.u32("a metadata array")?;
                let len = self.u64("a metadata array")?;
                self.array_elems = self.array_elems.saturating_add(len);
                within("the number of array elements in the metadata", self.array_elems, ARRAY_ELEMS_MAX)?;
                within("the depth of a metadata array", u64::from(depth) + 1, u64::from(ARRAY_DEPTH_MAX))?;
                // Grown as the elements are really found: a length alone reserves nothing.
                let mut items = Vec::new();
                for _ in 0..len {
                    items.push(self.value(key, elem, depth + 1)?);
                }
                Value::Array(items)
            }
            10 => Value::U64(u64::from_le_bytes(self.array(WHAT)?)),
            11 => Value::I64(i64::from_le_bytes(self.array(WHAT)?)),
            12 => Value::F64(f64::from_le_bytes(self.array(WHAT)?)),
            id => return Err(GgufError::ValueType { key: key.to_owned(), id }),
        })
    }

    /// A description; `start` and `end` are still relative to the beginning of the data.
    fn tensor_info(&mut self, alignment: usize) -> Result<Info, GgufError> {
        const WHAT: &str = "a tensor description";
        let name = self.string("a tensor name", NAME_BYTES_MAX)?;
        let dims = self.u32(WHAT)?;
        within("the number of dimensions of a tensor", dims.into(), DIMENSIONS_MAX.into())?;
        let mut shape = Vec::new();
        for _ in 0..dims {
            shape.push(usize::try_from(self.u64(WHAT)?).unwrap_or(usize::MAX));
        }
        shape.reverse();
        let id = self.u32(WHAT)?;
        let offset = self.u64(WHAT)?;
        let Some(block) = BlockType::from_ggml_id(id) else {
            return Err(GgufError::BlockType { name, id });
        };
        let bytes = tensor_bytes(&name, &shape, block)?;
        let refuse = |why: &str| GgufError::Shape { name: name.clone(), shape: shape.clone(), why: why.to_owned() };
        let start = usize::try_from(offset).map_err(|_| refuse("its offset is beyond this machine's memory"))?;
        if !start.is_multiple_of(alignment) {
            return Err(refuse("its data is not aligned"));
        }
        let end = start.checked_add(bytes).ok_or_else(|| refuse("its data ends beyond any file"))?;
        Ok(Info { name, shape, block, start, end })
    }
}

/// Bytes of a tensor, after checking that its shape is one.
pub(super) fn tensor_bytes(name: &str, shape: &[usize], block: BlockType) -> Result<usize, GgufError> {
    let refuse = |why: String| GgufError::Shape { name: name.to_owned(), shape: shape.to_vec(), why };
    if shape.len() > DIMENSIONS_MAX as usize {
        return Err(refuse(format!("at most {DIMENSIONS_MAX} dimensions are possible")));
    }
    let row = *shape.last().ok_or_else(|| refuse("it has no dimensions".to_owned()))?;
    if shape.contains(&0) {
        return Err(refuse("a dimension is 0".to_owned()));
    }
    if !row.is_multiple_of(block.block_elems()) {
        return Err(refuse(format!("rows of {row} are no whole number of {block} blocks of {}", block.block_elems())));
    }
    let elems = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    elems
        .and_then(|n| block.bytes_for(n))
        // Offsets are added to the size later; half the address space leaves room for that.
        .filter(|&n| n <= isize::MAX as usize)
        .ok_or_else(|| refuse("it is larger than this machine's memory".to_owned()))
}
