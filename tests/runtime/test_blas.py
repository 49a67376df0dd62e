"""Threads of NumPy's matrix products."""

import os

from onnxq.runtime.blas import VARIABLE, one_thread


def test_the_environment_is_as_before(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with one_thread():
        assert os.environ[VARIABLE] == "1"
    assert VARIABLE not in os.environ


def test_the_users_number_stays(monkeypatch):
    monkeypatch.setenv(VARIABLE, "3")
    with one_thread():
        assert os.environ[VARIABLE] == "3"
    assert os.environ[VARIABLE] == "3"
