// Runs natively: `npm test`.

import assert from 'node:assert/strict';
import test from 'node:test';

import { prepare, toAnswer, toFeatures } from './measurements.js';

const iris = {
  id: 'iris',
  inputs: [{ name: 'X', datatype: 'FP32', shape: [-1n, 4n] }],
  outputs: [],
  labels: ['setosa', 'versicolor', 'virginica'],
};
const bytes = (value) => new TextEncoder().encode(JSON.stringify(value));

test('named measurements become a row of features in centimetres', () => {
  const binding = prepare(iris, '{"unit": "mm"}');
  const body = bytes({ petal_width: 2, petal_length: 14, sepal_width: 35, sepal_length: 51 });
  const tensor = toFeatures(binding, body);
  assert.deepEqual([tensor.name, tensor.shape], ['X', [1n, 4n]]);
  const features = [...new Float32Array(tensor.data.buffer)].map((value) => Number(value.toFixed(4)));
  assert.deepEqual(features, [5.1, 3.5, 1.4, 0.2]);
});

test('what misfits is the fault of who sent it', () => {
  const binding = prepare(iris, '{}');
  assert.throws(() => toFeatures(binding, bytes({ sepal_length: 'five' })), {
    code: 'invalid-input',
    message: '`sepal_length` has to be a number, got "five"',
  });
  assert.throws(() => toFeatures(binding, bytes(null)), { code: 'invalid-input' });
  assert.throws(() => prepare(iris, '{"fields": ["a"]}'), {
    code: 'invalid-config',
    message: 'expected a model of one input FP32[-1,1], got FP32[-1,4]',
  });
});

test('scores become a species', () => {
  const data = new Uint8Array(new Float32Array([0.25, 0.5, 0.25]).buffer);
  const outputs = [
    { name: 'label', datatype: 'INT64', shape: [1n], data: new Uint8Array(8) },
    { name: 'probabilities', datatype: 'FP32', shape: [1n, 3n], data },
  ];
  assert.deepEqual(toAnswer(prepare(iris, '{}'), outputs), {
    species: 'versicolor',
    confidence: 0.5,
    scores: { setosa: 0.25, versicolor: 0.5, virginica: 0.25 },
  });
});
