//! Reads `.ort` files: ONNX Runtime's flatbuffer form of a model (schema `ort.fbs`, file identifier `ORTM`).
//!
//! Only the path `InferenceSession → Model → Graph → initializers, nodes, attributes` is read. The few flatbuffer rules that
//! this needs are written out here over a checked byte slice instead of using generated accessors: those trust
//! their input unless a verifier for the whole schema ran before, and these files come from outside.
//! A flatbuffer may point to the same table many times, so a small file could unfold into a huge graph: [`Reader`]
//! counts what it reads and stops.

use super::{
    ConvertError,
    graph::{Attribute, Element, Graph, Node, Tensor},
};

/// Deepest nesting of graphs in graphs; real files have 2 (a merged decoder's `If`).
const DEPTH_MAX: usize = 16;
/// Most tables and strings read from one file; the largest known here has about 40,000.
const ITEMS_MAX: usize = 4_000_000;

/// A parsed model.
#[derive(Debug, Clone)]
pub struct Model {
    /// ONNX Runtime's format version, for example `5`.
    pub ort_version: String,
    /// The network.
    pub graph: Graph,
}

impl Model {
    /// Parses a file. `what` names it in errors.
    pub fn parse(what: &str, bytes: &[u8]) -> Result<Self, ConvertError> {
        let mut reader = Reader { bytes, items: 0, data_bytes: 0, text_bytes: 0 };
        reader.model().map_err(|e| match e {
            Fault::Damaged(why) => ConvertError::malformed(what, why),
            Fault::Convert(e) => e,
        })
    }
}

enum Fault {
    Damaged(String),
    Convert(ConvertError),
}

impl From<ConvertError> for Fault {
    fn from(e: ConvertError) -> Self {
        Fault::Convert(e)
    }
}

type Read<T> = Result<T, Fault>;

fn damaged<T>(why: impl Into<String>) -> Read<T> {
    Err(Fault::Damaged(why.into()))
}

/// Positions of the fields that are read, as the flatbuffer compiler numbers them: 4 + 2 × index in `ort.fbs`.
mod field {
    pub const SESSION_ORT_VERSION: usize = 4;
    pub const SESSION_MODEL: usize = 6;
    pub const MODEL_GRAPH: usize = 18;
    pub const GRAPH_INITIALIZERS: usize = 4;
    pub const GRAPH_NODES: usize = 8;
    pub const GRAPH_INPUTS: usize = 14;
    pub const GRAPH_OUTPUTS: usize = 16;
    pub const NODE_NAME: usize = 4;
    pub const NODE_DOMAIN: usize = 8;
    pub const NODE_OP: usize = 14;
    pub const NODE_INPUTS: usize = 20;
    pub const NODE_OUTPUTS: usize = 22;
    pub const NODE_ATTRIBUTES: usize = 24;
    pub const ATTRIBUTE_NAME: usize = 4;
    pub const ATTRIBUTE_TYPE: usize = 8;
    pub const ATTRIBUTE_F: usize = 10;
    pub const ATTRIBUTE_I: usize = 12;
    pub const ATTRIBUTE_S: usize = 14;
    pub const ATTRIBUTE_T: usize = 16;
    pub const ATTRIBUTE_G: usize = 18;
    pub const ATTRIBUTE_FLOATS: usize = 20;
    pub const ATTRIBUTE_INTS: usize = 22;
    pub const TENSOR_NAME: usize = 4;
    pub const TENSOR_DIMS: usize = 8;
    pub const TENSOR_TYPE: usize = 10;
    pub const TENSOR_RAW: usize = 12;
    pub const TENSOR_EXTERNAL_OFFSET: usize = 16;
}

/// A table: where it starts, and where its vtable stands and ends.
#[derive(Clone, Copy)]
struct Table {
    at: usize,
    vtable: usize,
    vtable_bytes: usize,
}

/// A vector: where its first element stands, and how many there are.
#[derive(Clone, Copy)]
struct Vector {
    at: usize,
    len: usize,
}

struct Reader<'a> {
    bytes: &'a [u8],
    items: usize,
    data_bytes: usize,
    text_bytes: usize,
}

impl<'a> Reader<'a> {
    fn model(&mut self) -> Read<Model> {
        if self.bytes.get(4..8) != Some(b"ORTM".as_slice()) {
            return damaged("not an ORT file: the identifier ORTM is missing");
        }
        let root = self.offset(0)?;
        let session = self.table(root)?;
        let ort_version = self.string(session, field::SESSION_ORT_VERSION)?;
        let Some(model) = self.child(session, field::SESSION_MODEL)? else {
            return damaged("the session holds no model");
        };
        let Some(graph) = self.child(model, field::MODEL_GRAPH)? else {
            return damaged("the model holds no graph");
        };
        Ok(Model { ort_version, graph: self.graph(graph, "main".into(), 0)? })
    }

    fn graph(&mut self, table: Table, name: String, depth: usize) -> Read<Graph> {
        if depth > DEPTH_MAX {
            return damaged(format!("graphs are nested deeper than {DEPTH_MAX}"));
        }
        let mut tensors = Vec::new();
        for t in self.children(table, field::GRAPH_INITIALIZERS)? {
            tensors.push(self.tensor(t)?);
        }
        let mut nodes = Vec::new();
        for n in self.children(table, field::GRAPH_NODES)? {
            nodes.push(self.node(n, depth)?);
        }
        let inputs = self.strings(table, field::GRAPH_INPUTS)?;
        let outputs = self.strings(table, field::GRAPH_OUTPUTS)?;
        Ok(Graph::assemble(name, inputs, outputs, tensors, nodes)?)
    }

    fn node(&mut self, table: Table, depth: usize) -> Read<Node> {
        let mut node = Node {
            name: self.string(table, field::NODE_NAME)?,
            op: self.string(table, field::NODE_OP)?,
            domain: self.string(table, field::NODE_DOMAIN)?,
            inputs: self.strings(table, field::NODE_INPUTS)?,
            outputs: self.strings(table, field::NODE_OUTPUTS)?,
            attributes: Default::default(),
        };
        for a in self.children(table, field::NODE_ATTRIBUTES)? {
            let name = self.string(a, field::ATTRIBUTE_NAME)?;
            let value = self.attribute(a, &name, depth)?;
            node.attributes.insert(name, value);
        }
        Ok(node)
    }

    fn attribute(&mut self, table: Table, name: &str, depth: usize) -> Read<Attribute> {
        let kind = self.scalar(table, field::ATTRIBUTE_TYPE, i32::from_le_bytes)?;
        Ok(match kind {
            1 => Attribute::Float(self.scalar(table, field::ATTRIBUTE_F, f32::from_le_bytes)?),
            2 => Attribute::Int(self.scalar(table, field::ATTRIBUTE_I, i64::from_le_bytes)?),
            3 => Attribute::String(self.string(table, field::ATTRIBUTE_S)?.into_bytes()),
            4 => match self.child(table, field::ATTRIBUTE_T)? {
                Some(t) => Attribute::Tensor(self.tensor(t)?),
                None => return damaged(format!("attribute `{name}` says it is a tensor and holds none")),
            },
            5 => match self.child(table, field::ATTRIBUTE_G)? {
                Some(g) => Attribute::Graph(self.graph(g, name.to_owned(), depth + 1)?),
                None => return damaged(format!("attribute `{name}` says it is a graph and holds none")),
            },
            6 => Attribute::Floats(self.scalars(table, field::ATTRIBUTE_FLOATS, f32::from_le_bytes)?),
            7 => Attribute::Ints(self.scalars(table, field::ATTRIBUTE_INTS, i64::from_le_bytes)?),
            other => Attribute::Other(other),
        })
    }

    fn tensor(&mut self, table: Table) -> Read<Tensor> {
        let name = self.string(table, field::TENSOR_NAME)?;
        let what = || format!("tensor `{name}`");
        // The schema's default, -1, says that the data is in this file.
        if self.place(table, field::TENSOR_EXTERNAL_OFFSET)?.is_some() {
            let offset = self.scalar(table, field::TENSOR_EXTERNAL_OFFSET, i64::from_le_bytes)?;
            if offset != -1 {
                return Err(ConvertError::unsupported(what(), "ORT data in a separate file").into());
            }
        }
        let code = self.scalar(table, field::TENSOR_TYPE, i32::from_le_bytes)?;
        let element = Element::from_onnx(code)
            .ok_or_else(|| ConvertError::unsupported(what(), format!("ORT element type {code}")))?;
        let shape = self
            .scalars(table, field::TENSOR_DIMS, i64::from_le_bytes)?
            .into_iter()
            .map(|d| usize::try_from(d).map_err(|_| ConvertError::malformed(what(), format!("dimension {d}"))))
            .collect::<Result<Vec<_>, _>>()?;
        let raw = match self.vector(table, field::TENSOR_RAW)? {
            Some(v) => self.slice(v.at, v.len)?,
            None => &[],
        };
        self.data_bytes += raw.len();
        // Every tensor stands in the file once; twice the file is room enough for any honest sharing.
        if self.data_bytes > self.bytes.len().saturating_mul(2) {
            return damaged("tensors overlap: their data is larger than the file");
        }
        Ok(Tensor::new(name, element, shape, raw.to_vec())?)
    }

    // The rules of flatbuffers. All offsets are unsigned 32-bit and relative to where they stand, but a table's first word
    // is a signed offset back to its vtable.

    fn slice(&self, at: usize, len: usize) -> Read<&'a [u8]> {
        match at.checked_add(len).and_then(|end| self.bytes.get(at..end)) {
            Some(s) => Ok(s),
            None => damaged(format!("an offset points outside the file (byte {at}, {len} bytes)")),
        }
    }

    fn array<const N: usize>(&self, at: usize) -> Read<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.slice(at, N)?);
        Ok(out)
    }

    fn offset(&self, at: usize) -> Read<usize> {
        let relative = u32::from_le_bytes(self.array(at)?) as usize;
        match at.checked_add(relative) {
            Some(to) if relative != 0 => Ok(to),
            _ => damaged(format!("a null offset at byte {at}")),
        }
    }

    fn count(&mut self, items: usize) -> Read<()> {
        self.items = self.items.saturating_add(items);
        if self.items > ITEMS_MAX { damaged(format!("it unfolds into more than {ITEMS_MAX} items")) } else { Ok(()) }
    }

    fn table(&mut self, at: usize) -> Read<Table> {
        self.count(1)?;
        let back = i64::from(i32::from_le_bytes(self.array(at)?));
        let Ok(vtable) = usize::try_from(at as i64 - back) else {
            return damaged(format!("the table at byte {at} has its vtable before the file"));
        };
        let vtable_bytes = usize::from(u16::from_le_bytes(self.array(vtable)?));
        self.slice(vtable, vtable_bytes)?;
        Ok(Table { at, vtable, vtable_bytes })
    }

    /// Where a field stands, or `None` when the table leaves it out.
    fn place(&self, table: Table, field: usize) -> Read<Option<usize>> {
        if field + 2 > table.vtable_bytes {
            return Ok(None);
        }
        let relative = usize::from(u16::from_le_bytes(self.array(table.vtable + field)?));
        Ok((relative != 0).then_some(table.at + relative))
    }

    fn scalar<const N: usize, T: Default>(&self, table: Table, field: usize, from: fn([u8; N]) -> T) -> Read<T> {
        match self.place(table, field)? {
            Some(at) => Ok(from(self.array(at)?)),
            None => Ok(T::default()),
        }
    }

    fn child(&mut self, table: Table, field: usize) -> Read<Option<Table>> {
        match self.place(table, field)? {
            Some(at) => {
                let to = self.offset(at)?;
                self.table(to).map(Some)
            }
            None => Ok(None),
        }
    }

    fn vector(&mut self, table: Table, field: usize) -> Read<Option<Vector>> {
        let Some(at) = self.place(table, field)? else { return Ok(None) };
        let to = self.offset(at)?;
        let len = u32::from_le_bytes(self.array(to)?) as usize;
        Ok(Some(Vector { at: to + 4, len }))
    }

    fn children(&mut self, table: Table, field: usize) -> Read<Vec<Table>> {
        let Some(v) = self.vector(table, field)? else { return Ok(Vec::new()) };
        self.slice(v.at, v.len.saturating_mul(4))?;
        (0..v.len)
            .map(|i| {
                let to = self.offset(v.at + 4 * i)?;
                self.table(to)
            })
            .collect()
    }

    fn scalars<const N: usize, T>(&mut self, table: Table, field: usize, from: fn([u8; N]) -> T) -> Read<Vec<T>> {
        let Some(v) = self.vector(table, field)? else { return Ok(Vec::new()) };
        self.slice(v.at, v.len.saturating_mul(N))?;
        self.count(v.len)?;
        (0..v.len).map(|i| Ok(from(self.array(v.at + N * i)?))).collect()
    }

    fn text(&mut self, at: usize) -> Read<String> {
        self.count(1)?;
        let len = u32::from_le_bytes(self.array(at)?) as usize;
        self.text_bytes += len;
        // Writers do share strings: a value's name stands once and is pointed to by every node that uses it.
        if self.text_bytes > self.bytes.len().saturating_mul(8) {
            return damaged("strings overlap: their text is larger than the file allows");
        }
        match std::str::from_utf8(self.slice(at + 4, len)?) {
            Ok(s) => Ok(s.to_owned()),
            Err(_) => damaged(format!("the string at byte {at} is not UTF-8")),
        }
    }

    fn string(&mut self, table: Table, field: usize) -> Read<String> {
        match self.place(table, field)? {
            Some(at) => {
                let to = self.offset(at)?;
                self.text(to)
            }
            None => Ok(String::new()),
        }
    }

    fn strings(&mut self, table: Table, field: usize) -> Read<Vec<String>> {
        let Some(v) = self.vector(table, field)? else { return Ok(Vec::new()) };
        self.slice(v.at, v.len.saturating_mul(4))?;
        (0..v.len)
            .map(|i| {
                let to = self.offset(v.at + 4 * i)?;
                self.text(to)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::convert::tests::never_panics;
    use flatbuffers::{FlatBufferBuilder, TableFinishedWIPOffset, WIPOffset};

    type Builder = FlatBufferBuilder<'static>;
    type Offset = WIPOffset<TableFinishedWIPOffset>;

    fn tensor(b: &mut Builder, name: &str, kind: i32, dims: &[i64], raw: &[u8]) -> Offset {
        let (name, dims, raw) = (b.create_string(name), b.create_vector(dims), b.create_vector(raw));
        let t = b.start_table();
        b.push_slot_always(field::TENSOR_NAME as u16, name);
        b.push_slot_always(field::TENSOR_DIMS as u16, dims);
        b.push_slot_always(field::TENSOR_TYPE as u16, kind);
        b.push_slot_always(field::TENSOR_RAW as u16, raw);
        b.end_table(t)
    }

    fn node(b: &mut Builder, op: &str, inputs: &[&str], outputs: &[&str], attributes: &[Offset]) -> Offset {
        let op = b.create_string(op);
        let names = |b: &mut Builder, names: &[&str]| {
            let names: Vec<_> = names.iter().map(|n| b.create_shared_string(n)).collect();
            b.create_vector(&names)
        };
        let (inputs, outputs, attributes) = (names(b, inputs), names(b, outputs), b.create_vector(attributes));
        let t = b.start_table();
        b.push_slot_always(field::NODE_OP as u16, op);
        b.push_slot_always(field::NODE_INPUTS as u16, inputs);
        b.push_slot_always(field::NODE_OUTPUTS as u16, outputs);
        b.push_slot_always(field::NODE_ATTRIBUTES as u16, attributes);
        b.end_table(t)
    }

    fn graph(b: &mut Builder, tensors: &[Offset], nodes: &[Offset]) -> Offset {
        let (tensors, nodes) = (b.create_vector(tensors), b.create_vector(nodes));
        let t = b.start_table();
        b.push_slot_always(field::GRAPH_INITIALIZERS as u16, tensors);
        b.push_slot_always(field::GRAPH_NODES as u16, nodes);
        b.end_table(t)
    }

    fn attribute(b: &mut Builder, name: &str, kind: i32, fill: impl FnOnce(&mut Builder)) -> Offset {
        let name = b.create_string(name);
        let t = b.start_table();
        b.push_slot_always(field::ATTRIBUTE_NAME as u16, name);
        b.push_slot_always(field::ATTRIBUTE_TYPE as u16, kind);
        fill(b);
        b.end_table(t)
    }

    fn session(mut b: Builder, graph: Offset) -> Vec<u8> {
        let t = b.start_table();
        b.push_slot_always(field::MODEL_GRAPH as u16, graph);
        let model = b.end_table(t);
        let version = b.create_string("5");
        let t = b.start_table();
        b.push_slot_always(field::SESSION_ORT_VERSION as u16, version);
        b.push_slot_always(field::SESSION_MODEL as u16, model);
        let root = b.end_table(t);
        b.finish(root, Some("ORTM"));
        b.finished_data().to_vec()
    }

    fn model() -> Vec<u8> {
        let mut b = Builder::new();
        let inner_tensor = tensor(&mut b, "w", 2, &[2, 2], &[1, 2, 3, 255]);
        let inner_node = node(&mut b, "MatMulInteger", &["h", "w"], &["o"], &[]);
        let inner = graph(&mut b, &[inner_tensor], &[inner_node]);
        let branch = attribute(&mut b, "else_branch", 5, |b| b.push_slot_always(field::ATTRIBUTE_G as u16, inner));
        let ints = b.create_vector(&[1i64, -2]);
        let axes = attribute(&mut b, "axes", 7, |b| b.push_slot_always(field::ATTRIBUTE_INTS as u16, ints));
        let epsilon = attribute(&mut b, "epsilon", 1, |b| b.push_slot_always(field::ATTRIBUTE_F as u16, 1e-5f32));
        let choose = node(&mut b, "If", &["h"], &["o"], &[branch, axes, epsilon]);
        let first = node(&mut b, "Tanh", &["x"], &["h"], &[]);
        let scale = tensor(&mut b, "scale", 1, &[], &0.5f32.to_le_bytes());
        let main = graph(&mut b, &[scale], &[choose, first]);
        session(b, main)
    }

    #[test]
    fn tensors_nodes_attributes_and_branches_are_read() {
        let model = Model::parse("m", &model()).expect("parses");
        assert_eq!(model.ort_version, "5");
        let graph = &model.graph;
        assert_eq!(graph.nodes.iter().map(|n| n.op.as_str()).collect::<Vec<_>>(), ["Tanh", "If"]);
        let choose = &graph.nodes[1];
        assert_eq!(choose.ints("axes"), Some(&[1, -2][..]));
        assert_eq!(choose.float("epsilon"), Some(1e-5));
        let branch = choose.graph("else_branch").expect("a branch");
        let weight = branch.tensor("w").expect("w");
        assert_eq!(weight.shape, [2, 2]);
        let scale = graph.tensor("scale").expect("scale");
        assert_eq!(weight.dequantised(scale, None, 0).expect("dequantised"), [0.5, 1.0, 1.5, 127.5]);
    }

    #[test]
    fn a_damaged_file_never_panics() {
        never_panics(&model(), |bytes| {
            let _ = Model::parse("m", bytes);
        });
        let error = Model::parse("m", b"GGUF....").expect_err("not ORT").to_string();
        assert!(error.contains("ORTM"), "{error}");
    }

    #[test]
    fn a_small_file_that_unfolds_without_end_is_refused() {
        // Each graph holds an attribute that is the graph below it, many times: 20 to the power of 12 graphs in a few KB.
        let mut b = Builder::new();
        let mut below = graph(&mut b, &[], &[]);
        for _ in 0..12 {
            let branch = attribute(&mut b, "g", 5, |b| b.push_slot_always(field::ATTRIBUTE_G as u16, below));
            let choose = node(&mut b, "If", &[], &[], &[branch; 20]);
            below = graph(&mut b, &[], &[choose]);
        }
        let error = Model::parse("m", &session(b, below)).expect_err("a bomb").to_string();
        assert!(error.contains("unfolds") || error.contains("overlap"), "{error}");
        // The same tensor, again and again.
        let mut b = Builder::new();
        let t = tensor(&mut b, "t", 2, &[4096], &[0; 4096]);
        let main = graph(&mut b, &[t; 1000], &[]);
        let error = Model::parse("m", &session(b, main)).expect_err("a bomb").to_string();
        assert!(error.contains("overlap"), "{error}");
    }
}
