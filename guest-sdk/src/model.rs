//! The model a plugin is bound to, as the host describes it.

/// A model version: what goes in, what comes out, what its classes are called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    pub id: String,
    pub version: String,
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
    /// Label of class i at index i; empty where the model came without labels.
    pub labels: Vec<String>,
}

impl Model {
    /// The input of that name.
    pub fn input(&self, name: &str) -> Option<&TensorSpec> {
        self.inputs.iter().find(|input| input.name == name)
    }

    /// The output of that name.
    pub fn output(&self, name: &str) -> Option<&TensorSpec> {
        self.outputs.iter().find(|output| output.name == name)
    }

    /// The label of a class, or none where the list is missing, too short or blank there.
    pub fn label(&self, class: usize) -> Option<&str> {
        self.labels.get(class).map(String::as_str).filter(|label| !label.is_empty())
    }
}

/// What a model declares of one input or output.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TensorSpec {
    pub name: String,
    /// A datatype name of the Open Inference Protocol, "FP32" for instance.
    pub datatype: String,
    /// Axis sizes, outermost first; -1 where any size fits.
    pub shape: Vec<i64>,
}
