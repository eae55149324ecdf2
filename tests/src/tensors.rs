//! A small reader of safetensors files for tests.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};
use std::path::Path;

/// An open safetensors file, held in memory.
pub struct Tensors {
    path: String,
    bytes: Vec<u8>,
}

impl Tensors {
    /// Reads the file; panics with its path where that fails.
    pub fn open(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let this = Self { path: path.display().to_string(), bytes };
        this.file();
        this
    }

    fn file(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap_or_else(|e| panic!("{}: {e}", self.path))
    }

    /// The tensors' names, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.file().names().iter().map(|n| n.to_string()).collect();
        names.sort();
        names
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.file().tensor(name).is_ok()
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.read(name, |shape, _, _| shape.to_vec())
    }

    fn read<T>(&self, name: &str, f: impl FnOnce(&[usize], Dtype, &[u8]) -> T) -> T {
        let file = self.file();
        let view = file.tensor(name).unwrap_or_else(|e| panic!("{}: tensor `{name}`: {e}", self.path));
        f(view.shape(), view.dtype(), view.data())
    }

    /// Shape and elements of a float tensor of any width, as f64.
    pub fn f64(&self, name: &str) -> (Vec<usize>, Vec<f64>) {
        self.read(name, |shape, dtype, data| {
            let values = match dtype {
                Dtype::F64 => data.chunks_exact(8).map(|c| f64::from_le_bytes(c.try_into().unwrap())).collect(),
                Dtype::F32 => data.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().unwrap()) as f64).collect(),
                Dtype::F16 => {
                    data.chunks_exact(2).map(|c| half::f16::from_le_bytes(c.try_into().unwrap()).to_f64()).collect()
                }
                Dtype::BF16 => {
                    data.chunks_exact(2).map(|c| half::bf16::from_le_bytes(c.try_into().unwrap()).to_f64()).collect()
                }
                other => panic!("{}: tensor `{name}` holds {other:?}, not floats", self.path),
            };
            (shape.to_vec(), values)
        })
    }

    /// Shape and elements of a float tensor, as f32.
    pub fn f32(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let (shape, values) = self.f64(name);
        (shape, values.into_iter().map(|v| v as f32).collect())
    }

    /// Shape and elements of an integer tensor.
    pub fn i64(&self, name: &str) -> (Vec<usize>, Vec<i64>) {
        self.read(name, |shape, dtype, data| {
            let values = match dtype {
                Dtype::I64 => data.chunks_exact(8).map(|c| i64::from_le_bytes(c.try_into().unwrap())).collect(),
                Dtype::I32 => data.chunks_exact(4).map(|c| i32::from_le_bytes(c.try_into().unwrap()) as i64).collect(),
                Dtype::U8 | Dtype::BOOL => data.iter().map(|v| *v as i64).collect(),
                other => panic!("{}: tensor `{name}` holds {other:?}, not integers", self.path),
            };
            (shape.to_vec(), values)
        })
    }

    /// A float tensor on a device, in f32.
    pub fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        let (shape, values) = self.f32(name);
        assert_eq!(shape.len(), D, "{}: rank of `{name}`", self.path);
        Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
    }

    /// An integer tensor on a device, in the device's default integer type.
    pub fn int<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D, Int> {
        let (shape, values) = self.i64(name);
        assert_eq!(shape.len(), D, "{}: rank of `{name}`", self.path);
        Tensor::from_data(TensorData::new(values, shape), device)
    }
}
