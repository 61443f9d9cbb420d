//! Execution providers: what of the machine models run on, by the names that people use.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a model runs on: a provider of ONNX Runtime, and which of its devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExecutionProvider {
    pub kind: ProviderKind,
    /// A number; of OpenVINO a name such as `GPU` or `AUTO:GPU,CPU`. `None`: the provider's first.
    pub device: Option<String>,
}

/// The providers that the host knows to ask for. Which of them there are depends on the ONNX Runtime library.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ProviderKind {
    #[default]
    Cpu,
    Cuda,
    TensorRt,
    NvTensorRtRtx,
    Rocm,
    MiGraphX,
    OpenVino,
    DirectMl,
    CoreMl,
    Xnnpack,
    OneDnn,
}

/// What may follow a provider's name.
#[derive(PartialEq)]
enum Devices {
    None,
    Numbered,
    Named,
}

impl ProviderKind {
    pub const ALL: [ProviderKind; 11] = [
        ProviderKind::Cpu,
        ProviderKind::Cuda,
        ProviderKind::TensorRt,
        ProviderKind::NvTensorRtRtx,
        ProviderKind::Rocm,
        ProviderKind::MiGraphX,
        ProviderKind::OpenVino,
        ProviderKind::DirectMl,
        ProviderKind::CoreMl,
        ProviderKind::Xnnpack,
        ProviderKind::OneDnn,
    ];

    pub fn name(self) -> &'static str {
        match self {
            ProviderKind::Cpu => "cpu",
            ProviderKind::Cuda => "cuda",
            ProviderKind::TensorRt => "tensorrt",
            ProviderKind::NvTensorRtRtx => "nv_tensorrt_rtx",
            ProviderKind::Rocm => "rocm",
            ProviderKind::MiGraphX => "migraphx",
            ProviderKind::OpenVino => "openvino",
            ProviderKind::DirectMl => "directml",
            ProviderKind::CoreMl => "coreml",
            ProviderKind::Xnnpack => "xnnpack",
            ProviderKind::OneDnn => "onednn",
        }
    }

    /// The name that ONNX Runtime has for it.
    pub fn onnx_name(self) -> &'static str {
        match self {
            ProviderKind::Cpu => "CPUExecutionProvider",
            ProviderKind::Cuda => "CUDAExecutionProvider",
            ProviderKind::TensorRt => "TensorrtExecutionProvider",
            ProviderKind::NvTensorRtRtx => "NvTensorRTRTXExecutionProvider",
            ProviderKind::Rocm => "ROCMExecutionProvider",
            ProviderKind::MiGraphX => "MIGraphXExecutionProvider",
            ProviderKind::OpenVino => "OpenVINOExecutionProvider",
            ProviderKind::DirectMl => "DmlExecutionProvider",
            ProviderKind::CoreMl => "CoreMLExecutionProvider",
            ProviderKind::Xnnpack => "XnnpackExecutionProvider",
            ProviderKind::OneDnn => "DnnlExecutionProvider",
        }
    }

    fn devices(self) -> Devices {
        match self {
            ProviderKind::Cuda
            | ProviderKind::TensorRt
            | ProviderKind::NvTensorRtRtx
            | ProviderKind::Rocm
            | ProviderKind::MiGraphX
            | ProviderKind::DirectMl => Devices::Numbered,
            ProviderKind::OpenVino => Devices::Named,
            ProviderKind::Cpu | ProviderKind::CoreMl | ProviderKind::Xnnpack | ProviderKind::OneDnn => Devices::None,
        }
    }
}

impl ExecutionProvider {
    /// The device as metrics and answers name it: `0` where it is the first of those with numbers.
    pub fn device(&self) -> &str {
        let first = if self.kind.devices() == Devices::Numbered { "0" } else { "" };
        self.device.as_deref().unwrap_or(first)
    }

    /// The number of the GPU, where it is one and not for the provider to choose.
    pub fn gpu(&self) -> Option<u16> {
        (self.kind.devices() == Devices::Numbered).then(|| self.index())
    }

    /// Whether it runs on processors; `None` where the provider chooses.
    pub fn is_cpu(&self) -> Option<bool> {
        match self.kind {
            ProviderKind::OpenVino | ProviderKind::CoreMl => None,
            _ => Some(self.gpu().is_none()),
        }
    }

    /// The number of the device.
    pub fn index(&self) -> u16 {
        self.device.as_deref().and_then(|device| device.parse().ok()).unwrap_or(0)
    }
}

impl FromStr for ExecutionProvider {
    type Err = String;

    fn from_str(text: &str) -> Result<ExecutionProvider, String> {
        let (name, device) = text.split_once(':').map_or((text, None), |(name, device)| (name, Some(device)));
        let kind = ProviderKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let known = ProviderKind::ALL.map(ProviderKind::name).join(", ");
            let shown: String = text.chars().take(64).collect();
            format!(
                "{shown:?} is no execution provider; expected one of {known}, and a device after a colon as in cuda:1"
            )
        })?;
        let is_named = |device: &str| {
            (1..=64).contains(&device.len())
                && device.bytes().all(|c| c.is_ascii_alphanumeric() || b".:,_-()".contains(&c))
        };
        let fits = match (kind.devices(), device) {
            (_, None) => true,
            (Devices::None, Some(_)) => false,
            // Written in one way, so that one device has one name.
            (Devices::Numbered, Some(device)) => device.parse::<u16>().is_ok_and(|number| number.to_string() == device),
            (Devices::Named, Some(device)) => is_named(device),
        };
        match (fits, kind.devices()) {
            (true, _) => Ok(ExecutionProvider { kind, device: device.map(str::to_owned) }),
            (false, Devices::None) => {
                Err(format!("{name} has no devices to choose from: leave out what follows the colon"))
            }
            (false, Devices::Numbered) => Err(format!("after {name}: comes the number of a device, as in {name}:0")),
            (false, Devices::Named) => Err(format!("after {name}: comes the name of a device, as in {name}:GPU")),
        }
    }
}

impl TryFrom<String> for ExecutionProvider {
    type Error = String;

    fn try_from(text: String) -> Result<ExecutionProvider, String> {
        text.parse()
    }
}

impl From<ExecutionProvider> for String {
    fn from(provider: ExecutionProvider) -> String {
        provider.to_string()
    }
}

impl fmt::Display for ExecutionProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.device {
            Some(device) => write!(f, "{}:{device}", self.kind.name()),
            None => f.write_str(self.kind.name()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_reads_as_it_is_written() {
        for (text, device) in [("cpu", ""), ("cuda", "0"), ("cuda:1", "1"), ("openvino:AUTO:GPU,CPU", "AUTO:GPU,CPU")] {
            let provider: ExecutionProvider = text.parse().unwrap();
            assert_eq!((provider.to_string().as_str(), provider.device()), (text, device));
        }
        assert_eq!("tensorrt:3".parse::<ExecutionProvider>().unwrap().index(), 3);
        for (text, gpu, is_cpu) in [
            ("cpu", None, Some(true)),
            ("onednn", None, Some(true)),
            ("cuda", Some(0), Some(false)),
            ("cuda:1", Some(1), Some(false)),
            ("openvino:GPU", None, None),
        ] {
            let provider: ExecutionProvider = text.parse().unwrap();
            assert_eq!((provider.gpu(), provider.is_cpu()), (gpu, is_cpu), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_refused_with_what_there_is() {
        let refused = |text: &str| text.parse::<ExecutionProvider>().unwrap_err();
        assert!(refused("gpu").contains("expected one of cpu, cuda, tensorrt"));
        assert!(refused("CUDA").contains("expected one of"));
        assert!(refused("cpu:0").contains("no devices"));
        for text in ["cuda:", "cuda:x", "cuda:-1", "cuda:01", "cuda:1:2", "cuda:99999"] {
            assert!(refused(text).contains("as in cuda:0"), "{text}");
        }
        assert!(refused("openvino:").contains("as in openvino:GPU"));
        assert!(refused("openvino:a b").contains("as in openvino:GPU"));
    }
}
