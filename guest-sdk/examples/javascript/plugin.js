// The component's exports: `transform` and `golden` of nexus:plugin.

import { emit } from 'nexus:plugin/log@0.1.0';
import { CONFIG_SCHEMA, prepare, toAnswer, toFeatures } from './measurements.js';

// Set by `init`; every request starts from a copy of it.
let binding;

/** What is thrown has to be the contract's `error`: anything else ends in a trap that does not tell what it was. */
const thrownAsError = (call) => (...args) => {
  try {
    return call(...args);
  } catch (error) {
    throw error.code ? error : { code: 'plugin', message: `${error}\n${error.stack}` };
  }
};

const json = (value) => new TextEncoder().encode(JSON.stringify(value));

export const transform = {
  describe() {
    return {
      name: 'measurements',
      version: '0.1.0',
      stages: ['preprocess', 'postprocess'],
      configSchema: JSON.stringify(CONFIG_SCHEMA),
      hosts: [],
    };
  },

  init: thrownAsError((model, config) => {
    binding = prepare(model, config);
    emit('info', `${model.id} takes ${binding.fields.join(', ')}`);
  }),

  preprocess: thrownAsError((request) => [toFeatures(binding, request.body)]),

  postprocess: thrownAsError((outputs) => ({
    contentType: 'application/json',
    body: json(toAnswer(binding, outputs)),
  })),
};

export const golden = {
  example() {
    const record = Object.fromEntries(binding.fields.map((field) => [field, 1]));
    return { contentType: 'application/json', body: json(record), parameters: [] };
  },
};
