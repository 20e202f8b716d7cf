import hashlib
import os
import subprocess
import sys

import pytest

from wasi.models import identity
from wasi.models.identity import weights_identity


def config(weights, name="vit_b_32"):
    return {"name": name, "library": "torchvision", "weights": str(weights)}


@pytest.mark.parametrize("keyword", ["pretrained", "random", "surrogate"])
def test_keywords_stand_for_themselves(keyword):
    assert weights_identity(config(keyword)) == keyword


def test_file_is_known_by_its_content(tmp_path):
    one, same = tmp_path / "one", tmp_path / "same"
    one.write_bytes(b"weights")
    same.write_bytes(b"weights")
    expected = f"sha256:{hashlib.sha256(b'weights').hexdigest()}"
    assert weights_identity(config(one)) == weights_identity(config(same)) == expected
    one.write_bytes(b"changed")
    os.utime(one, ns=(1, 1))
    assert weights_identity(config(one)) != expected


def test_missing_file(tmp_path):
    assert weights_identity(config(tmp_path / "nothing")) == "absent"
    assert weights_identity(config("x" * 300)) == "absent"


def test_shipped_file_counts_by_content(monkeypatch, tmp_path):
    monkeypatch.setattr(identity, "SHIPPED_WEIGHTS", tmp_path / "micro")
    assert weights_identity(config("pretrained", "vit_micro")) == "absent"
    (tmp_path / "micro").write_bytes(b"x")
    assert weights_identity(config("pretrained", "vit_micro")).startswith("sha256:")


def test_import_is_light():
    code = (
        "import sys, wasi.models.identity, wasi.models.input_spec, wasi.models.weights_file; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'timm', 'torchvision', 'safetensors')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_file_of_an_unknown_user_is_absent():
    assert weights_identity(config("~nobody_of_this_name/model.safetensors")) == "absent"
