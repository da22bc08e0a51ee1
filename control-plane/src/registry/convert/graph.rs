//! A network as ONNX describes it, independent of whether it came from an `.onnx` or an `.ort` file.
//!
//! Graphs hold named tensors ([`Graph::tensor`]), nodes in an order in which every value is produced before it is used, and
//! attributes that may themselves be graphs (`If`, `Loop`). `Constant` nodes are folded into the tensors.

use super::ConvertError;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Element type of a [`Tensor`]; the numbers in ONNX and ORT files are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// IEEE 32-bit.
    F32,
    /// IEEE 64-bit.
    F64,
    /// IEEE 16-bit.
    F16,
    /// The upper half of an F32.
    Bf16,
    /// Unsigned 8-bit.
    U8,
    /// Signed 8-bit.
    I8,
    /// Unsigned 16-bit.
    U16,
    /// Signed 16-bit.
    I16,
    /// Unsigned 32-bit.
    U32,
    /// Signed 32-bit.
    I32,
    /// Unsigned 64-bit.
    U64,
    /// Signed 64-bit.
    I64,
    /// One byte, 0 or 1.
    Bool,
}

impl Element {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Element::U8 | Element::I8 | Element::Bool => 1,
            Element::F16 | Element::Bf16 | Element::U16 | Element::I16 => 2,
            Element::F32 | Element::U32 | Element::I32 => 4,
            Element::F64 | Element::U64 | Element::I64 => 8,
        }
    }

    /// From the number in ONNX's `TensorProto.DataType`, which ORT's flatbuffer shares.
    pub fn from_onnx(code: i32) -> Option<Self> {
        Some(match code {
            1 => Element::F32,
            2 => Element::U8,
            3 => Element::I8,
            4 => Element::U16,
            5 => Element::I16,
            6 => Element::I32,
            7 => Element::I64,
            9 => Element::Bool,
            10 => Element::F16,
            11 => Element::F64,
            12 => Element::U32,
            13 => Element::U64,
            16 => Element::Bf16,
            _ => return None,
        })
    }
}

/// A dense array, row-major, little endian.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Its name in the file.
    pub name: String,
    /// Element type.
    pub element: Element,
    /// Dimensions, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    data: Vec<u8>,
}

impl Tensor {
    /// Checks that the bytes are exactly as many as the shape needs.
    pub fn new(
        name: impl Into<String>,
        element: Element,
        shape: Vec<usize>,
        data: Vec<u8>,
    ) -> Result<Self, ConvertError> {
        let name = name.into();
        let expected = shape
            .iter()
            .try_fold(element.bytes(), |n, d| n.checked_mul(*d))
            .ok_or_else(|| ConvertError::malformed(format!("tensor `{name}`"), format!("shape {shape:?} overflows")))?;
        if expected != data.len() {
            return Err(ConvertError::malformed(
                format!("tensor `{name}`"),
                format!("shape {shape:?} of {element:?} needs {expected} bytes, but it has {}", data.len()),
            ));
        }
        Ok(Self { name, element, shape, data })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len() / self.element.bytes()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The raw little-endian bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// The elements as floats, whatever their type (integers above 2^24 lose digits).
    pub fn f32s(&self) -> Vec<f32> {
        let d = &self.data;
        match self.element {
            Element::F32 => d.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Element::F16 => d.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            Element::Bf16 => d.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            Element::F64 => d.chunks_exact(8).map(|b| f64::from_le_bytes(eight(b)) as f32).collect(),
            _ => self.i64s().into_iter().map(|v| v as f32).collect(),
        }
    }

    /// The elements as integers (floats are cut towards zero).
    pub fn i64s(&self) -> Vec<i64> {
        let d = &self.data;
        match self.element {
            Element::U8 | Element::Bool => d.iter().map(|b| i64::from(*b)).collect(),
            Element::I8 => d.iter().map(|b| i64::from(*b as i8)).collect(),
            Element::U16 => d.chunks_exact(2).map(|b| i64::from(u16::from_le_bytes([b[0], b[1]]))).collect(),
            Element::I16 => d.chunks_exact(2).map(|b| i64::from(i16::from_le_bytes([b[0], b[1]]))).collect(),
            Element::U32 => {
                d.chunks_exact(4).map(|b| i64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
            }
            Element::I32 => {
                d.chunks_exact(4).map(|b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
            }
            Element::U64 | Element::I64 => d.chunks_exact(8).map(|b| i64::from_le_bytes(eight(b))).collect(),
            Element::F32 | Element::F64 | Element::F16 | Element::Bf16 => {
                self.f32s().into_iter().map(|v| v as i64).collect()
            }
        }
    }

    /// Fails unless the shape is exactly this.
    pub fn expect_shape(&self, shape: &[usize]) -> Result<&Self, ConvertError> {
        if self.shape == shape {
            Ok(self)
        } else {
            Err(ConvertError::Shape {
                name: self.name.clone(),
                found: self.shape.clone(),
                expected: format!("{shape:?}"),
            })
        }
    }

    /// `(q - zero_point) * scale`, per tensor when `scale` has one element, else per index along `axis`, as ONNX's
    /// `DequantizeLinear` defines it. A missing zero point is 0.
    pub fn dequantised(
        &self,
        scale: &Tensor,
        zero_point: Option<&Tensor>,
        axis: usize,
    ) -> Result<Vec<f32>, ConvertError> {
        let q = self.f32s();
        let scales = scale.f32s();
        let zeros = zero_point.map_or_else(|| vec![0.0; scales.len()], Tensor::f32s);
        if scales.len() != zeros.len() || scales.is_empty() {
            return Err(ConvertError::malformed(
                format!("tensor `{}`", self.name),
                format!("{} scales with {} zero points", scales.len(), zeros.len()),
            ));
        }
        if scales.len() == 1 {
            return Ok(q.iter().map(|v| (v - zeros[0]) * scales[0]).collect());
        }
        let channels = self.shape.get(axis).copied().unwrap_or(0);
        if channels != scales.len() {
            return Err(ConvertError::Shape {
                name: self.name.clone(),
                found: self.shape.clone(),
                expected: format!("{} channels on axis {axis}, one for each scale", scales.len()),
            });
        }
        let inner: usize = self.shape[axis + 1..].iter().product::<usize>().max(1);
        Ok(q.iter()
            .enumerate()
            .map(|(i, v)| (v - zeros[i / inner % channels]) * scales[i / inner % channels])
            .collect())
    }
}

fn eight(b: &[u8]) -> [u8; 8] {
    [b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]
}

/// Turns `[rows, cols]` into `[cols, rows]`: ONNX's MatMul weights are `[in, out]`, ours are `[out, in]`.
pub fn transposed(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    assert_eq!(values.len(), rows * cols, "a matrix of {rows} x {cols} has as many values");
    let mut out = Vec::with_capacity(values.len());
    for c in 0..cols {
        out.extend((0..rows).map(|r| values[r * cols + c]));
    }
    out
}

/// Value of a node's attribute.
#[derive(Debug, Clone)]
pub enum Attribute {
    /// A float.
    Float(f32),
    /// An integer.
    Int(i64),
    /// A string, as bytes.
    String(Vec<u8>),
    /// A tensor.
    Tensor(Tensor),
    /// A nested graph, for example a branch of `If`.
    Graph(Graph),
    /// Floats.
    Floats(Vec<f32>),
    /// Integers.
    Ints(Vec<i64>),
    /// A kind that no converter needs; the number is ONNX's attribute type.
    Other(i32),
}

/// One operation.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name; may be empty.
    pub name: String,
    /// The operator, for example `MatMulInteger`.
    pub op: String,
    /// The operator's domain; empty for ONNX's own.
    pub domain: String,
    /// Names of the inputs; an empty name is an input left out.
    pub inputs: Vec<String>,
    /// Names of the outputs.
    pub outputs: Vec<String>,
    /// Attributes by name.
    pub attributes: BTreeMap<String, Attribute>,
}

impl Node {
    /// An integer attribute.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.attributes.get(name) {
            Some(Attribute::Int(v)) => Some(*v),
            _ => None,
        }
    }

    /// A float attribute.
    pub fn float(&self, name: &str) -> Option<f32> {
        match self.attributes.get(name) {
            Some(Attribute::Float(v)) => Some(*v),
            _ => None,
        }
    }

    /// A list of integers.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.attributes.get(name) {
            Some(Attribute::Ints(v)) => Some(v),
            _ => None,
        }
    }

    /// A nested graph, for example `then_branch`.
    pub fn graph(&self, name: &str) -> Option<&Graph> {
        match self.attributes.get(name) {
            Some(Attribute::Graph(g)) => Some(g),
            _ => None,
        }
    }
}

/// A network, or a branch of one.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// Its name, for messages.
    pub name: String,
    /// Names of its inputs, initializers excluded.
    pub inputs: Vec<String>,
    /// Names of its outputs.
    pub outputs: Vec<String>,
    /// Initializers and the values of `Constant` nodes.
    pub tensors: BTreeMap<String, Tensor>,
    /// Nodes other than `Constant`, every value produced before it is used.
    pub nodes: Vec<Node>,
}

impl Graph {
    /// Folds constants, sorts the nodes, and drops initializers from the list of inputs.
    pub(super) fn assemble(
        name: String,
        inputs: Vec<String>,
        outputs: Vec<String>,
        initializers: Vec<Tensor>,
        nodes: Vec<Node>,
    ) -> Result<Self, ConvertError> {
        let mut tensors: BTreeMap<String, Tensor> = initializers.into_iter().map(|t| (t.name.clone(), t)).collect();
        let mut kept = Vec::with_capacity(nodes.len());
        for mut node in nodes {
            if node.op != "Constant" {
                kept.push(node);
                continue;
            }
            let Some(output) = node.outputs.first().cloned() else { continue };
            let constant = match (node.attributes.remove("value"), node.float("value_float"), node.int("value_int")) {
                (Some(Attribute::Tensor(mut t)), ..) => {
                    t.name.clone_from(&output);
                    t
                }
                (_, Some(v), _) => Tensor::new(&output, Element::F32, vec![], v.to_le_bytes().to_vec())?,
                (_, _, Some(v)) => Tensor::new(&output, Element::I64, vec![], v.to_le_bytes().to_vec())?,
                _ => match node.ints("value_ints") {
                    Some(v) => {
                        let data = v.iter().flat_map(|i| i.to_le_bytes()).collect();
                        Tensor::new(&output, Element::I64, vec![v.len()], data)?
                    }
                    None => continue,
                },
            };
            tensors.insert(output, constant);
        }
        let inputs = inputs.into_iter().filter(|i| !tensors.contains_key(i)).collect();
        Ok(Self { name, inputs, outputs, nodes: sorted(kept), tensors })
    }

    /// A tensor by name.
    pub fn tensor(&self, name: &str) -> Result<&Tensor, ConvertError> {
        self.tensors.get(name).ok_or_else(|| ConvertError::MissingTensor {
            what: format!("graph `{}`", self.name),
            name: name.to_owned(),
        })
    }

    /// A node by its name.
    pub fn node(&self, name: &str) -> Result<&Node, ConvertError> {
        self.nodes.iter().find(|n| n.name == name).ok_or_else(|| {
            ConvertError::malformed(format!("graph `{}`", self.name), format!("there is no node `{name}`"))
        })
    }

    /// Nodes of one operator, in order.
    pub fn nodes_of<'a>(&'a self, op: &'a str) -> impl Iterator<Item = &'a Node> + 'a {
        self.nodes.iter().filter(move |n| n.op == op)
    }

    /// The node that produces a value.
    pub fn producer(&self, value: &str) -> Option<&Node> {
        self.nodes.iter().find(|n| n.outputs.iter().any(|o| o == value))
    }

    /// The nodes that use a value.
    pub fn consumers<'a>(&'a self, value: &'a str) -> impl Iterator<Item = &'a Node> + 'a {
        self.nodes.iter().filter(move |n| n.inputs.iter().any(|i| i == value))
    }
}

/// A stable topological order; nodes on a cycle (which only a damaged file has) keep their place at the end.
fn sorted(nodes: Vec<Node>) -> Vec<Node> {
    let mut producer: HashMap<&str, usize> = HashMap::new();
    for (i, node) in nodes.iter().enumerate() {
        for output in node.outputs.iter().filter(|o| !o.is_empty()) {
            producer.insert(output, i);
        }
    }
    let mut waiting = vec![0usize; nodes.len()];
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (i, node) in nodes.iter().enumerate() {
        let needs: HashSet<usize> = node.inputs.iter().filter_map(|v| producer.get(v.as_str()).copied()).collect();
        waiting[i] = needs.len();
        for need in needs {
            users[need].push(i);
        }
    }
    let mut ready: BTreeSet<usize> = (0..nodes.len()).filter(|i| waiting[*i] == 0).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(i) = ready.pop_first() {
        order.push(i);
        for user in &users[i] {
            waiting[*user] -= 1;
            if waiting[*user] == 0 {
                ready.insert(*user);
            }
        }
    }
    let placed: HashSet<usize> = order.iter().copied().collect();
    order.extend((0..nodes.len()).filter(|i| !placed.contains(i)));
    let mut slots: Vec<Option<Node>> = nodes.into_iter().map(Some).collect();
    order.into_iter().filter_map(|i| slots[i].take()).collect()
}
