"What can be no model is said in one line, and neither a library nor the network is asked first."

import json, shutil, socket
from pathlib import Path

import pytest

from multiagent_ft.core import MaftError
from multiagent_ft.engines import huggingface as hf, weights

NANO = Path(weights.find_model('nano'))


def model(folder, *without, **files):
    "A copy of nano, some files left out and some rewritten."
    shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns('*.py', '__pycache__', *without))
    for name, content in files.items():
        (folder / name.replace('__', '.').replace('_safetensors', '.safetensors')).write_bytes(content)
    return str(folder)


def said(name):
    with pytest.raises(MaftError) as e:
        hf.load_base(name)
    assert len(str(e.value).splitlines()) <= 2
    return str(e.value)


def test_missing_shard_is_named(tmp_path):
    name = model(tmp_path / 'm', 'model.safetensors')
    index = dict(weight_map={'a': 'model-00001-of-00002.safetensors', 'b': 'model-00002-of-00002.safetensors'})
    (tmp_path / 'm' / 'model.safetensors.index.json').write_text(json.dumps(index))
    shutil.copy(NANO / 'model.safetensors', tmp_path / 'm' / 'model-00002-of-00002.safetensors')
    assert 'model-00001-of-00002.safetensors is missing' in said(name)


def test_pointer_of_git_lfs_and_damaged_weights_are_named(tmp_path):
    pointer = b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n'
    assert '`git lfs pull`' in said(model(tmp_path / 'lfs', model_safetensors=pointer))
    half = (NANO / 'model.safetensors').read_bytes()[:100_000]
    assert 'its weights are damaged' in said(model(tmp_path / 'half', model_safetensors=half))


def test_model_without_tokenizer_or_with_unknown_architecture(tmp_path):
    assert 'has no tokenizer' in said(model(tmp_path / 'mute', 'tokenizer*', 'vocab*', 'merges.txt'))
    config = json.loads((NANO / 'config.json').read_text()) | dict(
        model_type='foo_9', architectures=['Foo9ForCausalLM']
    )
    new = model(tmp_path / 'new', config__json=json.dumps(config).encode())
    assert 'does not know its architecture (foo_9)' in said(new)


def test_file_in_place_of_its_folder(tmp_path):
    name = model(tmp_path / 'm')
    assert f'name the folder that it lies in, {name}' in said(f'{name}/model.safetensors')
    assert len('a' * 300) == 300 and 'a' * 300 in said('a' * 300)


def test_misspelled_folder_never_asks_the_network(tmp_path, monkeypatch):
    model(tmp_path / 'm' / 'llama')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, 'getaddrinfo', lambda *a, **kw: pytest.fail('the network was asked'))
    assert 'holds no lama. Did you mean m/llama?' in said('m/lama')


def test_network_is_asked_once_and_the_cache_used_without_it(tmp_path, monkeypatch):
    from huggingface_hub import constants

    asked, commit = [], 'a' * 40
    cached = tmp_path / 'models--acme--tiny'
    (cached / 'refs').mkdir(parents=True)
    (cached / 'refs' / 'main').write_text(commit)
    model(cached / 'snapshots' / commit)
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:9')  # nobody listens there
    monkeypatch.setattr(weights, 'hub_answers', lambda: asked.append(1) or False)
    import transformers.utils.hub as hub

    monkeypatch.setattr(hub.constants, 'HF_HUB_CACHE', str(tmp_path))
    base = hf.load_base('acme/tiny')
    assert base.identity()['base']['commit'] == commit and asked


def test_hub_that_does_not_answer_is_noticed(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:9')  # nobody listens there
    weights.hub_answers.cache_clear()
    assert weights.hub_answers() is False
    weights.hub_answers.cache_clear()


def test_arguments_of_the_chat_template_reach_it_from_the_settings(tmp_path):
    from multiagent_ft.core import Message, write_atomic
    from multiagent_ft.engines.by_name import engine_for
    from multiagent_ft.runs.run import spec_for
    from multiagent_ft.runs.settings import dump_config, load_config

    template = (NANO / 'chat_template.jinja').read_text() + '{% if enable_thinking is false %}quiet{% endif %}'
    (tmp_path / 't.jinja').write_text(template)
    rendered = {}
    for value in ('false', 'true', '{enable_thinking: false}'):
        key = 'template_args' if value.startswith('{') else 'template_args.enable_thinking'
        cfg = load_config(sets=[f'chat_template={tmp_path / "t.jinja"}', f'{key}={value}'])
        assert load_config(write_atomic(tmp_path / 'c.yaml', dump_config(cfg))) == cfg
        engine = engine_for(spec_for(cfg))
        rendered[value] = engine.decode(engine.render((Message('user', 'hi'),)))
        assert engine.identity()['template_args'] == dict(enable_thinking=value == 'true')
    assert rendered['false'] == rendered['{enable_thinking: false}'] != rendered['true']
    assert 'template_args' not in spec_for(load_config()).args, 'the keys of ordinary runs stay as they are'
