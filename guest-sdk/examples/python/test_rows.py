"""Runs natively: `python3 -m unittest`."""

import unittest
from array import array
from types import SimpleNamespace

from rows import Failure, Scaler

IRIS = SimpleNamespace(
    inputs=[SimpleNamespace(name="X", datatype="FP32", shape=[-1, 4])],
    labels=["setosa", "versicolor", "virginica"],
)


class Rows(unittest.TestCase):
    def test_rows_become_z_scores(self):
        scaler = Scaler(IRIS, '{"mean": [5, 3, 4, 1], "std": [1, 2, 4, 0.5]}')
        shape, data = scaler.scale(b"5,3,4,1\r\n\r\n6,1,8,0\n")
        self.assertEqual(shape, [2, 4])
        self.assertEqual(list(array("f", data)), [0, 0, 0, 0, 1, -1, 1, -2])

    def test_what_misfits_is_the_fault_of_who_sent_it(self):
        scaler = Scaler(IRIS, "{}")
        for body, message in [
            (b"", "no row"),
            (b"1,2,3", "line 1: expected 4 finite numbers, got 1,2,3"),
            (b"1,2,3,4\n1,2,x,4", "line 2: could not convert string to float: 'x'"),
            (b"1,2,nan,4", "line 1: expected 4 finite"),
            (b"\xff", "no UTF-8"),
        ]:
            with self.assertRaises(Failure) as raised:
                scaler.scale(body)
            self.assertEqual(raised.exception.code, "invalid-input")
            self.assertIn(message, raised.exception.message)
        with self.assertRaises(Failure) as raised:
            Scaler(IRIS, '{"mean": [1]}')
        self.assertEqual(raised.exception.code, "invalid-config")
        self.assertEqual(raised.exception.message, "`mean`: expected 4 numbers, one a feature, got 1")

    def test_scores_become_lines(self):
        data = array("f", [0.25, 0.5, 0.25, 0.75, 0.25, 0]).tobytes()
        outputs = [
            SimpleNamespace(name="label", datatype="INT64", shape=[2], data=bytes(16)),
            SimpleNamespace(name="probabilities", datatype="FP32", shape=[2, 3], data=data),
        ]
        self.assertEqual(Scaler(IRIS, "{}").answer(outputs), "versicolor 0.5000\nsetosa 0.7500\n")


if __name__ == "__main__":
    unittest.main()
