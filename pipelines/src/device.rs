//! The devices that a recipe can name. No other module knows which kinds there are.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::recipe::Dtype;

/// A device, as a recipe or `--device` names it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DeviceSpec {
    /// The first CUDA GPU if there is one and support for it is compiled in, else `Flex`.
    #[default]
    Auto,
    /// The CPU.
    Flex,
    /// The CPU through the ndarray backend: slow, for comparison.
    Ndarray,
    /// The CUDA GPU with this number.
    Cuda(usize),
    /// A device that `hearth lend` lends at this address of a trusted network, `Remote("10.0.0.2:7000")`: only to share the work of
    /// another one.
    Remote(#[serde(deserialize_with = "read_address")] SocketAddr),
}

impl DeviceSpec {
    /// The cargo feature that this build lacks for the device, if it lacks one.
    pub fn missing_feature(self) -> Option<&'static str> {
        match self {
            Self::Auto if !cfg!(feature = "flex") && !cfg!(feature = "cuda") => Some("flex"),
            Self::Flex if !cfg!(feature = "flex") => Some("flex"),
            Self::Ndarray if !cfg!(feature = "ndarray") => Some("ndarray"),
            Self::Cuda(_) if !cfg!(feature = "cuda") => Some("cuda"),
            Self::Remote(_) if !cfg!(feature = "remote") => Some("remote"),
            _ => None,
        }
    }

    /// Whether the device compiles and tunes kernels while it runs, so that a first step is not like the others.
    pub fn is_compiled(self) -> bool {
        match self {
            #[cfg(feature = "cuda")]
            Self::Auto => cuda_count() > 0,
            Self::Cuda(_) => true,
            _ => false,
        }
    }

    /// Whether models can compute in `dtype` on the device.
    pub fn supports(self, dtype: Dtype) -> bool {
        !(self == Self::Ndarray && dtype == Dtype::Bf16)
    }

    /// Bytes that are free on the device, where that can be found out: of a CPU's memory from the system (Linux), of a GPU's from
    /// `nvidia-smi`.
    pub fn free_memory(self) -> Option<u64> {
        match self {
            Self::Cuda(index) => free_on_gpu(index),
            Self::Auto if self.is_compiled() => free_on_gpu(0),
            _ => free_on_host(),
        }
    }

    /// The device itself.
    ///
    /// # Errors
    /// [`Error::Device`] if it is not compiled in (names the feature) or not there (says what is).
    pub fn init(self) -> Result<Device, Error> {
        let fail = |reason: String| Err(Error::Device { device: self, reason });
        match self {
            #[cfg(feature = "cuda")]
            Self::Auto if cuda_count() > 0 => Ok(Device::cuda(0)),
            #[cfg(feature = "flex")]
            Self::Auto | Self::Flex => Ok(Device::flex()),
            // Deprecated because Burn 0.23 removes it; until then its results are compared with those of Flex.
            #[cfg(feature = "ndarray")]
            #[allow(deprecated)]
            Self::Ndarray => Ok(Device::ndarray()),
            #[cfg(feature = "cuda")]
            Self::Cuda(index) if index < cuda_count() => Ok(Device::cuda(index)),
            #[cfg(feature = "remote")]
            Self::Remote(address) => crate::lend::borrow(address).or_else(fail),
            _ => match self.missing_feature() {
                Some(feature) => fail(format!("this build is without it; build with `--features {feature}`")),
                None => fail("there is no such GPU; does `nvidia-smi` list it?".to_owned()),
            },
        }
    }
}

fn free_on_gpu(index: usize) -> Option<u64> {
    let arguments = ["--query-gpu=memory.free", "--format=csv,noheader,nounits", "-i", &index.to_string()];
    let output = std::process::Command::new("nvidia-smi").args(arguments).output().ok()?;
    let mib: u64 = String::from_utf8(output.stdout).ok()?.trim().parse().ok()?;
    output.status.success().then_some(mib << 20)
}

/// What the system can give, within the limit of the process' group.
fn free_on_host() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let system = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
    });
    let group = |name: &str| read(&format!("/sys/fs/cgroup/{name}"))?.trim().parse::<u64>().ok();
    let group = group("memory.max").zip(group("memory.current")).map(|(most, used)| most.saturating_sub(used));
    system.into_iter().chain(group).min()
}

/// Bytes of what lives in a device's memory, where its allocator says so; on a CPU the resident memory of this process without
/// mapped files (Linux).
pub fn memory_in_use(device: &Device) -> Option<u64> {
    match device.memory_pool_usage() {
        Some(usage) => Some(usage.bytes_in_use),
        None => resident(),
    }
}

fn resident() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
        let pages: Vec<u64> = statm.split_whitespace().map_while(|pages| pages.parse().ok()).collect();
        let (resident, shared) = (pages.get(1)?, pages.get(2)?);
        Some(resident.saturating_sub(*shared) * rustix::param::page_size() as u64)
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// CUDA GPUs that can be used now; 0, without an error, where there is no driver.
#[cfg(feature = "cuda")]
fn cuda_count() -> usize {
    Device::enumerate(burn::tensor::DeviceType::Cuda).len()
}

fn to_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("`{text}` is no address and port, such as 10.0.0.2:7000; names of hosts are not looked up")
    })
}

fn read_address<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    to_address(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// As it is written in a recipe.
impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("Auto"),
            Self::Flex => f.write_str("Flex"),
            Self::Ndarray => f.write_str("Ndarray"),
            Self::Cuda(index) => write!(f, "Cuda({index})"),
            Self::Remote(address) => write!(f, "Remote(\"{address}\")"),
        }
    }
}

/// Reads `Cuda(0)` as in a recipe, and `cuda:0`, `cuda` or `flex` as other tools write it; letter case does not matter.
impl FromStr for DeviceSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.trim().to_ascii_lowercase();
        let (kind, index) = match lower.strip_suffix(')').and_then(|inside| inside.split_once('(')) {
            Some((kind, index)) => (kind, Some(index)),
            None => lower.split_once(':').map_or((lower.as_str(), None), |(kind, index)| (kind, Some(index))),
        };
        match (kind, index) {
            ("auto", None) => Ok(Self::Auto),
            ("flex", None) => Ok(Self::Flex),
            ("ndarray", None) => Ok(Self::Ndarray),
            ("cuda", None) => Ok(Self::Cuda(0)),
            ("cuda", Some(index)) => match index.trim().parse() {
                Ok(index) => Ok(Self::Cuda(index)),
                Err(_) => Err(format!("`{index}` is not the number of a GPU")),
            },
            ("remote", Some(address)) => to_address(address.trim().trim_matches('"')).map(Self::Remote),
            _ => Err(format!(
                "no device is called `{text}`; accepted: Auto, Flex, Ndarray, Cuda(0), Remote(\"10.0.0.2:7000\")"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_read_in_both_forms() {
        let remote = DeviceSpec::Remote(([10, 0, 0, 2], 7000).into());
        for spec in [DeviceSpec::Auto, DeviceSpec::Flex, DeviceSpec::Ndarray, DeviceSpec::Cuda(3), remote] {
            assert_eq!(spec.to_string().parse(), Ok(spec));
        }
        assert_eq!("cuda:2".parse(), Ok(DeviceSpec::Cuda(2)));
        assert_eq!("CUDA".parse(), Ok(DeviceSpec::Cuda(0)));
        assert_eq!("remote:10.0.0.2:7000".parse(), Ok(remote));
        assert_eq!("Remote([::1]:7000)".parse(), Ok(DeviceSpec::Remote("[::1]:7000".parse().unwrap())));
        for wrong in ["remote", "remote:host", "remote:10.0.0.2", "", "gpu", "cuda:x", "cuda:-1", "Cuda(", "flex:1"] {
            assert!(wrong.parse::<DeviceSpec>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_device_that_is_not_compiled_in_names_its_feature() {
        for spec in [
            DeviceSpec::Auto,
            DeviceSpec::Flex,
            DeviceSpec::Ndarray,
            DeviceSpec::Cuda(0),
            DeviceSpec::Remote(([127, 0, 0, 1], 9).into()),
        ] {
            if let Some(feature) = spec.missing_feature() {
                assert!(spec.init().unwrap_err().to_string().contains(&format!("--features {feature}")));
            }
        }
    }

    #[test]
    fn bf16_is_refused_where_it_would_panic() {
        assert!(!DeviceSpec::Ndarray.supports(Dtype::Bf16));
        assert!(DeviceSpec::Ndarray.supports(Dtype::F32));
        assert!(DeviceSpec::Flex.supports(Dtype::Bf16));
    }
}
