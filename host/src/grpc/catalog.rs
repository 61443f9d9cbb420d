//! What `oip` says of models, as messages.

use super::proto::model_instance_group::Kind;
use super::proto::model_metadata_response::TensorMetadata;
use super::proto::model_version_policy::{All, PolicyChoice};
use super::proto::repository_index_response::ModelIndex;
use super::proto::{
    DataType, InferBatchStatistics, InferStatistics, MemoryUsage, ModelConfig, ModelInput, ModelInstanceGroup,
    ModelMetadataResponse, ModelOutput, ModelParameter, ModelStatistics, ModelVersionPolicy, StatisticDuration,
};
use crate::oip;

impl From<oip::ModelMetadata> for ModelMetadataResponse {
    fn from(metadata: oip::ModelMetadata) -> ModelMetadataResponse {
        let tensors = |tensors: Vec<oip::TensorMetadata>| {
            let tensors = tensors.into_iter().map(|oip::TensorMetadata { name, datatype, shape }| TensorMetadata {
                name,
                datatype: datatype.into_owned(),
                shape,
            });
            tensors.collect()
        };
        ModelMetadataResponse {
            name: metadata.name,
            versions: metadata.versions,
            platform: metadata.platform.to_owned(),
            inputs: tensors(metadata.inputs),
            outputs: tensors(metadata.outputs),
        }
    }
}

impl From<oip::ModelConfig> for ModelConfig {
    fn from(config: oip::ModelConfig) -> ModelConfig {
        let data_type = |name: &str| DataType::from_str_name(name).unwrap_or(DataType::TypeInvalid).into();
        let inputs = config.input.into_iter().map(|input| ModelInput {
            data_type: data_type(&input.data_type),
            name: input.name,
            dims: input.dims,
            optional: input.optional,
            ..ModelInput::default()
        });
        let outputs = config.output.into_iter().map(|output| ModelOutput {
            data_type: data_type(&output.data_type),
            name: output.name,
            dims: output.dims,
            label_filename: output.label_filename.unwrap_or_default().to_owned(),
            ..ModelOutput::default()
        });
        let groups = config.instance_group.into_iter().map(|group| ModelInstanceGroup {
            name: group.name,
            kind: Kind::from_str_name(group.kind).unwrap_or(Kind::Auto).into(),
            count: group.count,
            gpus: group.gpus,
            ..ModelInstanceGroup::default()
        });
        let parameters = config.parameters.into_iter().map(|(name, oip::ConfigParameter { string_value })| {
            let parameter = ModelParameter { string_value };
            (name.to_owned(), parameter)
        });
        ModelConfig {
            name: config.name,
            platform: config.platform.to_owned(),
            backend: config.backend.to_owned(),
            version_policy: Some(ModelVersionPolicy { policy_choice: Some(PolicyChoice::All(All {})) }),
            max_batch_size: config.max_batch_size,
            input: inputs.collect(),
            output: outputs.collect(),
            instance_group: groups.collect(),
            default_model_filename: config.default_model_filename.to_owned(),
            parameters: parameters.collect(),
            ..ModelConfig::default()
        }
    }
}

impl From<oip::VersionState> for ModelIndex {
    fn from(version: oip::VersionState) -> ModelIndex {
        let oip::VersionState { name, version, state, reason } = version;
        ModelIndex { name, version, state: state.to_owned(), reason }
    }
}

fn duration(duration: oip::Duration) -> Option<StatisticDuration> {
    Some(StatisticDuration { count: duration.count, ns: duration.ns })
}

impl From<oip::ModelStatistics> for ModelStatistics {
    fn from(statistics: oip::ModelStatistics) -> ModelStatistics {
        let batches = statistics.batch_stats.into_iter().map(|batch| InferBatchStatistics {
            batch_size: batch.batch_size,
            compute_input: duration(batch.compute_input),
            compute_infer: duration(batch.compute_infer),
            compute_output: duration(batch.compute_output),
        });
        let memory = statistics.memory_usage.into_iter().map(|usage| MemoryUsage {
            r#type: usage.kind.to_owned(),
            id: usage.id,
            byte_size: usage.byte_size,
        });
        ModelStatistics {
            name: statistics.name,
            version: statistics.version,
            last_inference: statistics.last_inference,
            inference_count: statistics.inference_count,
            execution_count: statistics.execution_count,
            inference_stats: Some(statistics.inference_stats.into()),
            batch_stats: batches.collect(),
            memory_usage: memory.collect(),
            ..ModelStatistics::default()
        }
    }
}

impl From<oip::InferStatistics> for InferStatistics {
    fn from(statistics: oip::InferStatistics) -> InferStatistics {
        InferStatistics {
            success: duration(statistics.success),
            fail: duration(statistics.fail),
            queue: duration(statistics.queue),
            compute_input: duration(statistics.compute_input),
            compute_infer: duration(statistics.compute_infer),
            compute_output: duration(statistics.compute_output),
            cache_hit: duration(statistics.cache_hit),
            cache_miss: duration(statistics.cache_miss),
        }
    }
}
