//! Writing: metadata in the order of the keys and tensors in the order they were added, so equal content gives equal bytes.

use std::{
    collections::{BTreeMap, HashSet},
    io::{self, Write},
};

use super::{ARCHITECTURE_KEY, BlockType, DEFAULT_ALIGNMENT, Gguf, GgufError, Value, quantise, reader::tensor_bytes};

/// A file in the making.
#[derive(Debug, Clone)]
pub struct GgufWriter {
    meta: BTreeMap<String, Value>,
    tensors: Vec<Tensor>,
    names: HashSet<String>,
}

#[derive(Debug, Clone)]
struct Tensor {
    name: String,
    shape: Vec<usize>,
    block: BlockType,
    data: Vec<u8>,
}

impl GgufWriter {
    /// An empty file for a model of this architecture.
    pub fn new(architecture: &str) -> Self {
        let meta = BTreeMap::from([(ARCHITECTURE_KEY.to_owned(), architecture.into())]);
        Self { meta, tensors: Vec::new(), names: HashSet::new() }
    }

    /// A copy of a file, to add metadata to.
    pub fn from_gguf(gguf: &Gguf) -> Self {
        let mut meta = gguf.metadata().clone();
        // Data is laid out anew, with the default alignment.
        meta.remove("general.alignment");
        let tensors: Vec<_> = gguf
            .tensors()
            .map(|t| Tensor { name: t.name.to_owned(), shape: t.shape, block: t.block, data: t.data.to_vec() })
            .collect();
        let names = tensors.iter().map(|t| t.name.clone()).collect();
        Self { meta, tensors, names }
    }

    /// Sets a metadata key.
    pub fn meta(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        self.meta.insert(key.to_owned(), value.into());
        self
    }

    /// Adds a tensor whose blocks are ready. `shape` is row-major, outermost first.
    ///
    /// # Errors
    /// [`GgufError::Shape`] where the data does not fit the shape, [`GgufError::Duplicate`] for a name that is taken.
    pub fn tensor(
        &mut self,
        name: &str,
        shape: &[usize],
        block: BlockType,
        data: Vec<u8>,
    ) -> Result<&mut Self, GgufError> {
        let need = tensor_bytes(name, shape, block)?;
        if need != data.len() {
            let why = format!("{} bytes were given, {need} are needed for {block}", data.len());
            return Err(GgufError::Shape { name: name.to_owned(), shape: shape.to_vec(), why });
        }
        if !self.names.insert(name.to_owned()) {
            return Err(GgufError::Duplicate(name.to_owned()));
        }
        self.tensors.push(Tensor { name: name.to_owned(), shape: shape.to_vec(), block, data });
        Ok(self)
    }

    /// Quantises and adds a tensor.
    ///
    /// # Errors
    /// Those of [`quantise`] and [`GgufWriter::tensor`].
    pub fn tensor_f32(
        &mut self,
        name: &str,
        shape: &[usize],
        block: BlockType,
        values: &[f32],
    ) -> Result<&mut Self, GgufError> {
        // Rows, not the whole, must be whole blocks: said before quantising, with the tensor's name.
        tensor_bytes(name, shape, block)?;
        self.tensor(name, shape, block, quantise(block, values)?)
    }

    /// Adds bytes that are no weights, as a tensor of type I8.
    ///
    /// # Errors
    /// Those of [`GgufWriter::tensor`]; empty data has no shape and is refused.
    pub fn bytes(&mut self, name: &str, data: Vec<u8>) -> Result<&mut Self, GgufError> {
        self.tensor(name, &[data.len()], BlockType::I8, data)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let mut head = Vec::new();
        head.extend_from_slice(b"GGUF");
        head.extend_from_slice(&3u32.to_le_bytes());
        head.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        head.extend_from_slice(&(self.meta.len() as u64).to_le_bytes());
        for (key, value) in &self.meta {
            put_string(&mut head, key);
            head.extend_from_slice(&value.type_id().to_le_bytes());
            put_value(&mut head, value);
        }
        let mut offset = 0usize;
        for t in &self.tensors {
            put_string(&mut head, &t.name);
            head.extend_from_slice(&(t.shape.len() as u32).to_le_bytes());
            for d in t.shape.iter().rev() {
                head.extend_from_slice(&(*d as u64).to_le_bytes());
            }
            head.extend_from_slice(&t.block.ggml_id().to_le_bytes());
            head.extend_from_slice(&(offset as u64).to_le_bytes());
            offset += t.data.len().next_multiple_of(DEFAULT_ALIGNMENT);
        }
        pad(&mut head);
        out.write_all(&head)?;
        for t in &self.tensors {
            out.write_all(&t.data)?;
            let short = t.data.len().next_multiple_of(DEFAULT_ALIGNMENT) - t.data.len();
            out.write_all(&[0; DEFAULT_ALIGNMENT][..short])?;
        }
        Ok(())
    }

    /// The file as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write_to(&mut bytes).expect("writing to a Vec cannot fail");
        bytes
    }
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(DEFAULT_ALIGNMENT), 0);
}

fn put_string(out: &mut Vec<u8>, s: &str) {
    out.extend_from_slice(&(s.len() as u64).to_le_bytes());
    out.extend_from_slice(s.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(s) => put_string(out, s),
        Value::Array(items) => {
            // An empty array has no element to take the type from; strings are what empty lists in practice are of.
            let kind = items.first().map_or(8, Value::type_id);
            assert!(items.iter().all(|v| v.type_id() == kind), "an array's elements are of one type");
            out.extend_from_slice(&kind.to_le_bytes());
            out.extend_from_slice(&(items.len() as u64).to_le_bytes());
            items.iter().for_each(|v| put_value(out, v));
        }
    }
}
