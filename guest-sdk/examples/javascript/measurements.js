// Named measurements in, a species out: what the plugin does, in functions that node can test.

const DEFAULT_FIELDS = ['sepal_length', 'sepal_width', 'petal_length', 'petal_width'];

export const CONFIG_SCHEMA = {
  $schema: 'https://json-schema.org/draft/2020-12/schema',
  type: 'object',
  additionalProperties: false,
  properties: {
    fields: {
      description: "The request's fields, in the order of the model's features.",
      type: 'array',
      items: { type: 'string' },
      minItems: 1,
      default: DEFAULT_FIELDS,
    },
    unit: {
      description: 'What the client measures in; the model takes centimetres.',
      enum: ['cm', 'mm', 'in'],
      default: 'cm',
    },
  },
};

const CENTIMETRES = { cm: 1, mm: 0.1, in: 2.54 };

/** Thrown as it is, it becomes the contract's `error`. */
function failure(code, message) {
  return { code, message };
}

/** What a binding needs to know for its requests. */
export function prepare(model, configText) {
  const { fields = DEFAULT_FIELDS, unit = 'cm' } = JSON.parse(configText);
  const input = model.inputs[0];
  // Axis sizes are 64-bit numbers, which JavaScript calls BigInt.
  const features = input && Number(input.shape[input.shape.length - 1]);
  if (!input || input.datatype !== 'FP32' || input.shape.length !== 2 || ![-1, fields.length].includes(features)) {
    const got = input ? `${input.datatype}[${input.shape.join(',')}]` : 'no input';
    throw failure('invalid-config', `expected a model of one input FP32[-1,${fields.length}], got ${got}`);
  }
  return { input: input.name, labels: model.labels, fields, factor: CENTIMETRES[unit] };
}

/** A JSON object by field names, as one row of features. */
export function toFeatures(binding, body) {
  let record;
  try {
    record = JSON.parse(new TextDecoder().decode(body));
  } catch (error) {
    throw failure('invalid-input', `the request body is no JSON: ${error.message}`);
  }
  const values = binding.fields.map((field) => {
    const value = record?.[field];
    if (typeof value !== 'number') {
      throw failure('invalid-input', `\`${field}\` has to be a number, got ${JSON.stringify(value) ?? 'nothing'}`);
    }
    return value * binding.factor;
  });
  const data = new Uint8Array(new Float32Array(values).buffer);
  return { name: binding.input, datatype: 'FP32', shape: [1n, BigInt(values.length)], data };
}

/** The first row of scores, by labels. */
export function toAnswer(binding, outputs) {
  const scores = outputs.find((output) => output.datatype === 'FP32');
  if (!scores) {
    throw failure('plugin', 'the model has no FP32 output to take for scores');
  }
  const classes = Number(scores.shape[scores.shape.length - 1]);
  // Copied, because a view wants an offset that is a multiple of four.
  const values = new Float32Array(scores.data.slice(0, classes * 4).buffer);
  const byLabel = [...values].map((score, index) => [binding.labels[index] || String(index), score]);
  const [species, confidence] = byLabel.reduce((best, next) => (next[1] > best[1] ? next : best));
  return { species, confidence, scores: Object.fromEntries(byLabel) };
}
