//! Weights that are published as signed 8-bit integers with a scale, carried over into `Q8_0` blocks number by number.
//!
//! Dequantising such a matrix and quantising it again would round twice. `Q8_0` is the same idea with a finer scale (one for 32
//! weights), so the published integers go into the blocks as they are, each block with the scale of its row or matrix: all
//! that is lost is the scale's rounding to 16 bits, as a rule at most one part in 2,048 and the same for a whole row. With it the
//! phoneme durations of the speech synthesis stay equal to those of the float32 reference; quantised twice, one in 370 moved.

use super::{
    ConvertError, Quantise,
    graph::{Element, Graph, Tensor},
};
use nearfield_shared::gguf::{BlockType, GgufWriter};

/// A weight matrix `[out, in]` of signed bytes with one scale for each row, or one for all.
pub struct Int8Matrix {
    rows: usize,
    columns: usize,
    values: Vec<i8>,
    scales: Vec<f32>,
}

impl Int8Matrix {
    /// Reads `weight` with its scale and zero point from a graph. `transposed`: the tensor is `[in, out]`, as `MatMul` has it.
    /// Zero points other than 0 are not supported: `Q8_0` is symmetric.
    pub fn read(
        graph: &Graph,
        weight: &str,
        scale: &str,
        zero_point: &str,
        transposed: bool,
    ) -> Result<Self, ConvertError> {
        let tensor = graph.tensor(weight)?;
        let scales = graph.tensor(scale)?.f32s();
        if graph.tensors.get(zero_point).is_some_and(|z| z.i64s().iter().any(|v| *v != 0)) {
            return Err(ConvertError::unsupported(format!("tensor `{weight}`"), "a zero point other than 0"));
        }
        let (rows, columns) = shape(tensor, transposed)?;
        if scales.len() != 1 && scales.len() != rows {
            return Err(ConvertError::Shape {
                name: scale.to_owned(),
                found: vec![scales.len()],
                expected: format!("1 scale, or {rows}, one for each output"),
            });
        }
        let bytes = tensor.bytes();
        let values = if transposed {
            (0..rows).flat_map(|r| (0..columns).map(move |c| bytes[c * rows + r] as i8)).collect()
        } else {
            bytes.iter().map(|b| *b as i8).collect()
        };
        Ok(Self { rows, columns, values, scales })
    }

    /// Fails unless the shape is exactly this.
    pub fn expect(self, name: &str, rows: usize, columns: usize) -> Result<Self, ConvertError> {
        if (self.rows, self.columns) == (rows, columns) {
            Ok(self)
        } else {
            Err(ConvertError::Shape {
                name: name.to_owned(),
                found: vec![self.rows, self.columns],
                expected: format!("[{rows}, {columns}]"),
            })
        }
    }

    /// Matrices of the same width below one another.
    pub fn stacked(parts: Vec<Self>) -> Self {
        let columns = parts.first().map_or(0, |p| p.columns);
        assert!(parts.iter().all(|p| p.columns == columns), "stacked matrices are of one width");
        let rows = parts.iter().map(|p| p.rows).sum();
        let scales = parts.iter().flat_map(|p| (0..p.rows).map(|r| p.scale(r))).collect();
        Self { rows, columns, values: parts.into_iter().flat_map(|p| p.values).collect(), scales }
    }

    fn scale(&self, row: usize) -> f32 {
        if self.scales.len() == 1 { self.scales[0] } else { self.scales[row] }
    }

    /// Reorders the columns: column `i` of the result is column `order[i]` of this one, or zeros for `None`.
    pub fn with_columns(self, order: &[Option<usize>]) -> Self {
        let value = |row: usize, from: &Option<usize>| from.map_or(0, |c| self.values[row * self.columns + c]);
        let values = (0..self.rows).flat_map(|r| order.iter().map(move |from| value(r, from))).collect();
        Self { rows: self.rows, columns: order.len(), values, scales: self.scales }
    }

    /// The weights as floats, row after row.
    pub fn f32s(&self) -> Vec<f32> {
        self.values.iter().enumerate().map(|(i, v)| f32::from(*v) * self.scale(i / self.columns)).collect()
    }

    /// Adds the matrix to a file: the published integers for [`BlockType::Q8_0`], and through floats for any other type.
    pub fn write(&self, out: &mut GgufWriter, name: &str, block: BlockType) -> Result<(), ConvertError> {
        let shape = [self.rows, self.columns];
        if block == BlockType::Q8_0 {
            out.tensor(name, &shape, block, self.blocks(name)?)?;
        } else {
            out.tensor_f32(name, &shape, block, &self.f32s())?;
        }
        Ok(())
    }

    /// [`Int8Matrix::write`] with the block type that a quantisation gives to a matrix of this width.
    pub fn write_as(&self, out: &mut GgufWriter, name: &str, quantise: Quantise) -> Result<(), ConvertError> {
        self.write(out, name, quantise.matrix(self.columns))
    }

    fn blocks(&self, name: &str) -> Result<Vec<u8>, ConvertError> {
        let per_row = self.columns / 32;
        let mut blocks = Vec::with_capacity(self.rows * per_row * 34);
        for (i, block) in self.values.chunks_exact(32).enumerate() {
            let scale = self.scale(i / per_row);
            let half = half::f16::from_f32(scale);
            // Very small scales lose digits (subnormals), very large ones have no 16-bit number. An error of 1/256 is half an
            // integer step at the ends of the range: up to there this is no worse than quantising anew.
            let error = (half.to_f32() - scale).abs();
            if error.is_nan() || error > scale.abs() / 256.0 {
                return Err(ConvertError::unsupported(format!("tensor `{name}`"), format!("a scale of {scale}")));
            }
            blocks.extend_from_slice(&half.to_le_bytes());
            blocks.extend(block.iter().map(|v| *v as u8));
        }
        Ok(blocks)
    }
}

/// Rows (outputs) and columns of a two-dimensional weight, or of a convolution's `[out, in, kernel]` taken as a matrix.
fn shape(tensor: &Tensor, transposed: bool) -> Result<(usize, usize), ConvertError> {
    let what = || format!("tensor `{}`", tensor.name);
    if tensor.element != Element::I8 {
        return Err(ConvertError::unsupported(what(), format!("{:?} instead of signed bytes", tensor.element)));
    }
    match (tensor.shape.as_slice(), transposed) {
        ([inputs, outputs], true) => Ok((*outputs, *inputs)),
        ([outputs, rest @ ..], false) if !rest.is_empty() => Ok((*outputs, rest.iter().product())),
        _ => Err(ConvertError::Shape {
            name: tensor.name.clone(),
            found: tensor.shape.clone(),
            expected: "a matrix".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearfield_shared::gguf::Gguf;

    fn tensor(name: &str, element: Element, shape: &[usize], data: Vec<u8>) -> Tensor {
        Tensor::new(name, element, shape.to_vec(), data).expect("sound")
    }

    fn graph(zero: i8) -> Graph {
        // [in 32, out 2]: row 0 counts up from -16, row 1 is its negative.
        let values: Vec<u8> = (0..32).flat_map(|i| [(i - 16) as i8 as u8, (16 - i) as i8 as u8]).collect();
        let scales: Vec<u8> = [0.5f32, 0.003].iter().flat_map(|s| s.to_le_bytes()).collect();
        let tensors = [
            tensor("w", Element::I8, &[32, 2], values),
            tensor("s", Element::F32, &[2], scales),
            tensor("z", Element::I8, &[2], vec![0, zero as u8]),
        ];
        Graph { tensors: tensors.into_iter().map(|t| (t.name.clone(), t)).collect(), ..Graph::default() }
    }

    #[test]
    fn the_published_integers_are_carried_over_number_by_number() {
        let matrix = Int8Matrix::read(&graph(0), "w", "s", "z", true).expect("reads");
        let mut out = GgufWriter::new("test");
        matrix.write(&mut out, "w", BlockType::Q8_0).expect("writes");
        let file = Gguf::parse(out.to_bytes()).expect("parses");
        let view = file.tensor("w").expect("is there");
        assert_eq!(view.shape, [2, 32]);
        let scale = half::f16::from_f32(0.003).to_f32();
        let expected: Vec<f32> =
            (0..32).map(|i| (i - 16) as f32 * 0.5).chain((0..32).map(|i| (16 - i) as f32 * scale)).collect();
        assert_eq!(view.to_f32(), expected);
    }

    #[test]
    fn columns_can_be_moved_and_filled_with_zeros() {
        let matrix = Int8Matrix::read(&graph(0), "w", "s", "z", true).expect("reads");
        assert_eq!(matrix.with_columns(&[Some(1), None, Some(0)]).f32s(), [-7.5, 0.0, -8.0, 0.045, 0.0, 0.048]);
    }

    #[test]
    fn an_asymmetric_matrix_is_refused() {
        let error = Int8Matrix::read(&graph(3), "w", "s", "z", true).map(|_| ()).expect_err("refused");
        assert!(error.to_string().contains("zero point"), "{error}");
    }
}
