"Configurations of real models: readable, fitting, their heads up to date."

import pytest
from conftest import ROOT

from multiagent_ft.core import MaftError
from multiagent_ft.machines.configurations import SHAPES, check_configuration, shape_of

FILES = sorted((ROOT / 'configurations').glob('*.yaml'))
PUBLISHED = dict(zip(SHAPES, (0.60, 4.02, 8.19, 8.03, 7.25, 3.84)))  # billions of parameters, from the model cards


@pytest.mark.parametrize('file', FILES, ids=lambda f: f.stem)
def test_configuration_fits_its_machine_and_says_so(file):
    assert check_configuration(file) is None  # raises what is wrong


def test_stale_head_and_too_small_a_machine_are_detected(tmp_path):
    text = (ROOT / 'configurations' / 'qwen3-8b-80gb.yaml').read_text()
    (tmp_path / 'x-80gb.yaml').write_text(text.replace('micro_batch: 4', 'micro_batch: 2'))
    with pytest.raises(MaftError, match='its head is not'):
        check_configuration(tmp_path / 'x-80gb.yaml')
    (tmp_path / 'x-t4.yaml').write_text(text)
    with pytest.raises(MaftError, match='and the GPU has 16 GB'):
        check_configuration(tmp_path / 'x-t4.yaml')


def test_every_model_of_the_list_has_one():
    text = ''.join(f.read_text() for f in FILES)
    assert all(f'model: {m}' in text for m in SHAPES)


@pytest.mark.parametrize('model', PUBLISHED)
def test_shapes_have_the_published_number_of_parameters(model):
    counted = sum(p.numel() for p in shape_of(model).parameters()) / 1e9
    assert abs(counted - PUBLISHED[model]) < 0.01 * PUBLISHED[model] + 0.005
