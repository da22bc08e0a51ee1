//! Reads `.onnx` files: the protobuf messages of ONNX's `onnx.proto`, as far as weights need them, written out by hand so
//! that no protobuf compiler is needed. Unknown fields are skipped, as protobuf intends.
//!
//! prost stops at 100 levels of nesting, and every repeated field costs bytes of input, so memory stays within a small
//! multiple of the file.

use super::{
    ConvertError,
    graph::{Attribute, Element, Graph, Node, Tensor},
};
use prost::Message as _;

/// A parsed model.
#[derive(Debug, Clone)]
pub struct Model {
    /// Version of ONNX's default operator set, 0 where the file names none.
    pub opset: i64,
    /// Free metadata of the exporter.
    pub metadata: Vec<(String, String)>,
    /// The network.
    pub graph: Graph,
}

impl Model {
    /// Parses a file. `what` names it in errors.
    pub fn parse(what: &str, bytes: &[u8]) -> Result<Self, ConvertError> {
        let model = ModelProto::decode(bytes).map_err(|e| ConvertError::malformed(what, format!("not ONNX: {e}")))?;
        let graph = model.graph.ok_or_else(|| ConvertError::malformed(what, "the ONNX file holds no graph"))?;
        Ok(Self {
            opset: model.opset_import.iter().find(|o| o.domain.is_empty()).map_or(0, |o| o.version),
            metadata: model.metadata_props.into_iter().map(|p| (p.key, p.value)).collect(),
            graph: graph_of(graph)?,
        })
    }
}

fn graph_of(graph: GraphProto) -> Result<Graph, ConvertError> {
    let tensors = graph.initializer.into_iter().map(tensor_of).collect::<Result<Vec<_>, _>>()?;
    let nodes = graph.node.into_iter().map(node_of).collect::<Result<Vec<_>, _>>()?;
    let names = |infos: Vec<ValueInfoProto>| infos.into_iter().map(|v| v.name).collect();
    Graph::assemble(graph.name, names(graph.input), names(graph.output), tensors, nodes)
}

fn node_of(node: NodeProto) -> Result<Node, ConvertError> {
    let attributes = node
        .attribute
        .into_iter()
        .map(|a| {
            let name = a.name.clone();
            attribute_of(a).map(|value| (name, value))
        })
        .collect::<Result<_, _>>()?;
    Ok(Node {
        name: node.name,
        op: node.op_type,
        domain: node.domain,
        inputs: node.input,
        outputs: node.output,
        attributes,
    })
}

fn attribute_of(a: AttributeProto) -> Result<Attribute, ConvertError> {
    // Exporters before ONNX 1.2 left `type` out: then the field that is filled tells.
    let kind = match (a.r#type, &a.t, &a.g) {
        (0, Some(_), _) => 4,
        (0, _, Some(_)) => 5,
        (kind, ..) => kind,
    };
    Ok(match (kind, a.t, a.g) {
        (1, ..) => Attribute::Float(a.f),
        (2, ..) => Attribute::Int(a.i),
        (3, ..) => Attribute::String(a.s),
        (4, Some(t), _) => Attribute::Tensor(tensor_of(t)?),
        (5, _, Some(g)) => Attribute::Graph(graph_of(g)?),
        (6, ..) => Attribute::Floats(a.floats),
        (7, ..) => Attribute::Ints(a.ints),
        (kind, ..) => Attribute::Other(kind),
    })
}

fn tensor_of(t: TensorProto) -> Result<Tensor, ConvertError> {
    let what = || format!("tensor `{}`", t.name);
    if t.data_location == 1 || !t.external_data.is_empty() {
        return Err(ConvertError::unsupported(what(), "ONNX data in a separate file"));
    }
    let element = Element::from_onnx(t.data_type)
        .ok_or_else(|| ConvertError::unsupported(what(), format!("ONNX element type {}", t.data_type)))?;
    let shape = t
        .dims
        .iter()
        .map(|d| usize::try_from(*d).map_err(|_| ConvertError::malformed(what(), format!("dimension {d}"))))
        .collect::<Result<Vec<_>, _>>()?;
    let data = if !t.raw_data.is_empty() {
        t.raw_data
    } else {
        // The typed fields: narrow integers and 16-bit floats travel in `int32_data`, one element each.
        match element {
            Element::F32 => t.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Element::F64 => t.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Element::I64 => t.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Element::U64 => t.uint64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Element::U32 => t.uint64_data.iter().flat_map(|v| (*v as u32).to_le_bytes()).collect(),
            Element::I32 => t.int32_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Element::U8 | Element::I8 | Element::Bool => t.int32_data.iter().map(|v| *v as u8).collect(),
            Element::U16 | Element::I16 | Element::F16 | Element::Bf16 => {
                t.int32_data.iter().flat_map(|v| (*v as u16).to_le_bytes()).collect()
            }
        }
    };
    Tensor::new(t.name, element, shape, data)
}

#[derive(Clone, PartialEq, prost::Message)]
struct ModelProto {
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<OperatorSetIdProto>,
    #[prost(message, repeated, tag = "14")]
    metadata_props: Vec<StringStringEntryProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OperatorSetIdProto {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StringStringEntryProto {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeProto>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<ValueInfoProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ValueInfoProto {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<AttributeProto>,
    #[prost(string, tag = "7")]
    domain: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AttributeProto {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(float, tag = "2")]
    f: f32,
    #[prost(int64, tag = "3")]
    i: i64,
    #[prost(bytes = "vec", tag = "4")]
    s: Vec<u8>,
    #[prost(message, optional, tag = "5")]
    t: Option<TensorProto>,
    #[prost(message, optional, tag = "6")]
    g: Option<GraphProto>,
    #[prost(float, repeated, tag = "7")]
    floats: Vec<f32>,
    #[prost(int64, repeated, tag = "8")]
    ints: Vec<i64>,
    #[prost(int32, tag = "20")]
    r#type: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(float, repeated, tag = "4")]
    float_data: Vec<f32>,
    #[prost(int32, repeated, tag = "5")]
    int32_data: Vec<i32>,
    #[prost(int64, repeated, tag = "7")]
    int64_data: Vec<i64>,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    raw_data: Vec<u8>,
    #[prost(double, repeated, tag = "10")]
    double_data: Vec<f64>,
    #[prost(uint64, repeated, tag = "11")]
    uint64_data: Vec<u64>,
    #[prost(message, repeated, tag = "13")]
    external_data: Vec<StringStringEntryProto>,
    #[prost(int32, tag = "14")]
    data_location: i32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::convert::tests::never_panics;

    fn tensor(name: &str, data_type: i32, dims: &[i64]) -> TensorProto {
        TensorProto { name: name.into(), data_type, dims: dims.to_vec(), ..Default::default() }
    }

    fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
        let names = |n: &[&str]| n.iter().map(|s| (*s).to_owned()).collect();
        NodeProto { op_type: op.into(), input: names(inputs), output: names(outputs), ..Default::default() }
    }

    fn model() -> Vec<u8> {
        let raw = TensorProto { raw_data: vec![0, 0, 128, 63, 0, 0, 0, 64], ..tensor("raw", 1, &[2]) };
        let typed = TensorProto { float_data: vec![3.0, 4.0], ..tensor("typed", 1, &[1, 2]) };
        let narrow = TensorProto { int32_data: vec![-1, 2], ..tensor("narrow", 3, &[2]) };
        let half = TensorProto { int32_data: vec![0x3c00], ..tensor("half", 10, &[1]) };
        let long = TensorProto { int64_data: vec![i64::MIN, 7], ..tensor("", 7, &[2]) };
        let value = AttributeProto { name: "value".into(), r#type: 4, t: Some(long), ..Default::default() };
        let constant = NodeProto { attribute: vec![value], ..node("Constant", &[], &["folded"]) };
        let inner =
            GraphProto { name: "inner".into(), node: vec![node("Add", &["raw"], &["z"])], ..Default::default() };
        let branch = AttributeProto { name: "then_branch".into(), r#type: 5, g: Some(inner), ..Default::default() };
        let axis = AttributeProto { name: "axis".into(), r#type: 2, i: -1, ..Default::default() };
        // Written in the wrong order: `If` uses what `Mul` produces.
        let nodes = vec![
            NodeProto { attribute: vec![branch, axis], ..node("If", &["y"], &["out"]) },
            constant,
            node("Mul", &["x", "raw"], &["y"]),
        ];
        let info = |name: &str| ValueInfoProto { name: name.into() };
        let graph = GraphProto {
            name: "main".into(),
            node: nodes,
            initializer: vec![raw, typed, narrow, half],
            input: vec![info("x"), info("raw")],
            output: vec![info("out")],
        };
        let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 17 }];
        ModelProto { graph: Some(graph), opset_import, metadata_props: vec![] }.encode_to_vec()
    }

    #[test]
    fn every_way_to_store_numbers_is_read_and_nodes_are_put_in_order() {
        let model = Model::parse("m", &model()).expect("parses");
        let graph = &model.graph;
        assert_eq!(model.opset, 17);
        assert_eq!(graph.tensor("raw").expect("raw").f32s(), [1.0, 2.0]);
        assert_eq!(graph.tensor("typed").expect("typed").expect_shape(&[1, 2]).expect("shape").f32s(), [3.0, 4.0]);
        assert_eq!(graph.tensor("narrow").expect("narrow").i64s(), [-1, 2]);
        assert_eq!(graph.tensor("half").expect("half").f32s(), [1.0]);
        assert_eq!(graph.tensor("folded").expect("folded").i64s(), [i64::MIN, 7]);
        assert_eq!(graph.inputs, ["x"], "an initializer is no input");
        assert_eq!(graph.nodes.iter().map(|n| n.op.as_str()).collect::<Vec<_>>(), ["Mul", "If"]);
        let branch = graph.nodes[1].graph("then_branch").expect("a graph");
        assert_eq!(branch.nodes[0].op, "Add");
        assert_eq!(graph.nodes[1].int("axis"), Some(-1));
        assert_eq!(graph.producer("y").map(|n| n.op.as_str()), Some("Mul"));
        assert_eq!(graph.consumers("y").count(), 1);
        assert!(graph.tensor("gone").expect_err("gone").to_string().contains("`gone`"));
    }

    #[test]
    fn what_does_not_add_up_is_an_error_that_names_it() {
        let check = |tensor: TensorProto, expect: &str| {
            let graph = GraphProto { initializer: vec![tensor], ..Default::default() };
            let bytes = ModelProto { graph: Some(graph), ..Default::default() }.encode_to_vec();
            let error = Model::parse("m", &bytes).expect_err("must fail").to_string();
            assert!(error.contains(expect), "{error}");
        };
        check(tensor("t", 1, &[3]), "tensor `t`");
        check(tensor("t", 1, &[-3]), "dimension -3");
        check(tensor("t", 1, &[i64::MAX, i64::MAX]), "overflows");
        check(tensor("t", 8, &[]), "element type 8");
        check(TensorProto { data_location: 1, ..tensor("t", 1, &[]) }, "separate file");
        assert!(Model::parse("m", b"not a model at all").expect_err("text").to_string().starts_with("m is damaged"));
        assert!(Model::parse("m", b"").expect_err("empty").to_string().contains("no graph"));
    }

    #[test]
    fn a_damaged_file_never_panics() {
        never_panics(&model(), |bytes| {
            let _ = Model::parse("m", bytes);
        });
    }
}
