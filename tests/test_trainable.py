"A run finds out before its first debate whether agents of its base can be trained; LoRA options; left-out layers."

import json

import pytest
import tiny_models
from multiagent_ft.core import MaftError, digest
from multiagent_ft.engines.huggingface import HFEngine
from multiagent_ft.runs.run import RunContext, check_base, run
from multiagent_ft.runs.settings import load_config
from multiagent_ft.training import finetune as ft
from multiagent_ft.training.settings import TrainingSettings
from multiagent_ft.training.trainer import init_model

HIDDEN = dict(hidden_size=32, num_hidden_layers=2)
EXPERTS = dict(num_local_experts=4, num_experts_per_tok=2)
MAMBA = dict(mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_n_groups=1, mamba_chunk_size=16)
BODY = HIDDEN | dict(intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512)
# class of the configuration, its fields
CASES = dict(
    mamba=('MambaConfig', HIDDEN | dict(state_size=8)),
    mamba2=('Mamba2Config', HIDDEN | dict(state_size=8, head_dim=16, num_heads=4, n_groups=1, chunk_size=16)),
    falcon_h1=('FalconH1Config', BODY | MAMBA | dict(mamba_d_ssm=64, head_dim=8)),
    granitemoe=('GraniteMoeConfig', BODY | EXPERTS),
    llama4=('Llama4TextConfig', BODY | dict(intermediate_size_mlp=64, num_local_experts=4, head_dim=8)),
    phimoe=('PhimoeConfig', BODY | EXPERTS),
    falcon=('FalconConfig', HIDDEN | dict(num_attention_heads=4)),
    xlstm=('xLSTMConfig', dict(hidden_size=64, num_hidden_layers=2, num_blocks=2, num_heads=4)),
    gpt=('OpenAIGPTConfig', dict(n_embd=32, n_layer=2, n_head=4, n_positions=512)),
)


def make(name, folder):
    "A tiny model of an unusual architecture with Qwen's tokenizer and template."
    config, fields = CASES[name]
    return tiny_models.make('qwen2', folder, architecture=(config, fields))


@pytest.fixture(scope='module')
def engine(tmp_path_factory):
    made, at = {}, tmp_path_factory.mktemp('models')
    return lambda name: made.setdefault(name, HFEngine(make(name, at / name), device='cpu') if name not in made else 0)


@pytest.mark.parametrize(
    'name,left_out',
    [
        ('mamba', {'out_proj'}),
        ('mamba2', {'out_proj'}),
        ('falcon_h1', {'out_proj'}),
        ('granitemoe', set()),
        ('llama4', {'router'}),
        ('phimoe', {'router'}),
        ('falcon', set()),  # its linear layers are a class with a forward of its own
    ],
)
def test_recurrent_and_mixture_models_are_trained_without_unfit_layers(engine, name, left_out):
    e = engine(name)
    assert set(ft.check_trainable(e, {})) == left_out
    model = init_model(e.base, None, TrainingSettings(rank=4), 0)
    wrapped = {n.split('.lora_A')[0] for n, _ in model.named_parameters() if '.lora_A' in n}
    assert wrapped and not [n for n in wrapped if n.endswith(tuple(left_out))]


@pytest.mark.parametrize('name', ['granitemoe', 'phimoe'])
def test_mixture_whose_experts_have_another_name_is_trained_in_full(engine, name):
    "TRL asks for `num_experts`; the configuration says num_local_experts, and says no more afterwards."
    e = engine(name)
    assert ft.check_trainable(e, dict(method='full')) == {} and not hasattr(e.base.model.config, 'num_experts')


@pytest.mark.parametrize('iterations', [0, 1])
@pytest.mark.parametrize('name', ['xlstm', 'gpt'])
def test_model_that_cannot_generate_is_refused_before_the_first_debate(tmp_path, name, iterations):
    make(name, tmp_path / name)
    flags = dict(model=str(tmp_path / name), out=str(tmp_path / 'run'), workers=0, wandb='off', iterations=iterations)
    cfg = load_config(flags=flags)
    with pytest.raises(MaftError, match='cannot generate here') as e:
        run(cfg)
    assert len(str(e.value).splitlines()) <= 2 and nothing_was_generated(tmp_path)


def nothing_was_generated(folder):
    return not [f for kind in ('generate', 'check') for f in (folder / 'store').glob(f'{kind}/*/*/*')]


def test_untrainable_layers_are_refused_before_the_first_debate_and_the_check_is_stored(tmp_path):
    def context(**flags):
        return RunContext(load_config(flags=dict(out=str(tmp_path / 'run'), workers=0, wandb='off') | flags))

    with pytest.raises(MaftError, match='target_modules'):
        run(context(target_modules='experts').cfg)
    assert nothing_was_generated(tmp_path)
    with context() as c:  # the embedded model with an ordinary adapter is not asked
        check_base(c)
        assert not c.store.misses
    with context(target_modules='q_proj,v_proj') as c:
        check_base(c)
        check_base(c)
        assert c.store.misses == dict(check=1) and c.store.hits == dict(check=1)
    with context(target_modules='q_proj,v_proj', iterations=0) as c:  # nothing is trained
        check_base(c)
        assert not c.store.misses and not c.store.hits


def test_check_is_a_key_of_its_run_which_is_read_again(tmp_path, monkeypatch):
    small = dict(train=2, eval=2, iterations=1, agents=2, samples=2, target_modules='q_proj,v_proj')
    cfg = load_config(flags=dict(out=str(tmp_path / 'run'), workers=0, wandb='off') | small)
    run(cfg)
    (check,) = (tmp_path / 'store' / 'check').glob('*/*')
    assert check.name in json.loads((tmp_path / 'run' / 'keys.json').read_text())
    monkeypatch.setattr('multiagent_ft.runs.run.run_iterations', None)  # nothing is looked up step by step
    assert run(cfg, again=False)['made'] == {}


LAYERS = dict(exclude_modules='o_proj,down_proj')
DPO = dict(name='multiagent_ft.training.dpo:DPO')


@pytest.mark.parametrize(
    'settings,objective',
    [
        (dict(dora=True), None),
        (dict(rslora=True), None),
        (LAYERS, None),
        (LAYERS, DPO),
        pytest.param(dict(dora=True), DPO, marks=pytest.mark.slow),
        pytest.param(dict(rslora=True), DPO, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_lora_options_are_trained_saved_and_loaded(tmp_path, settings, objective):
    engine = HFEngine('nano', device='cpu')
    assert ft.check_trainable(engine, settings | dict(rank=4), objective) == {}
    model = init_model(engine.base, None, TrainingSettings(**settings | dict(rank=4)), 0)
    config = model.peft_config['default']
    assert (config.use_dora, config.use_rslora) == (settings.get('dora', False), settings.get('rslora', False))
    assert any('o_proj' in n for n, _ in model.named_parameters() if 'lora_A' in n) != ('exclude_modules' in settings)


def test_later_settings_change_no_key_unless_they_are_set():
    plain = TrainingSettings().plain()
    assert not {'dora', 'rslora', 'exclude_modules'} & set(plain)
    keys = [
        digest(TrainingSettings(**s).plain())
        for s in ({}, dict(dora=True), dict(rslora=True), dict(exclude_modules='x'))
    ]
    assert len(set(keys)) == 4


@pytest.mark.parametrize(
    'spoil,said',
    [
        (lambda c: '{', 'damaged'),
        (lambda c: '[]', 'damaged'),
        (lambda c: json.dumps(c | dict(modules_to_save=['lm_head'])), 'modules_to_save'),
        (lambda c: json.dumps(c | dict(peft_type='IA3')), 'is IA3'),
        (lambda c: json.dumps(c | dict(use_dora=True)), 'dora True.*dora False'),
    ],
)
def test_parent_of_another_kind_is_refused(tmp_path, spoil, said):
    from multiagent_ft.training.trainer import check_adapter_shape

    s = TrainingSettings()
    config = dict(peft_type='LORA', r=s.rank, lora_alpha=s.alpha, lora_dropout=s.dropout)
    (tmp_path / 'adapter_config.json').write_text(spoil(config))
    with pytest.raises(MaftError, match=said) as e:
        check_adapter_shape(str(tmp_path), s)
    assert len(str(e.value).splitlines()) <= 2


def test_objective_without_a_trial_is_tried_with_sft():
    "Examples of a kind that nobody can make up must not have a run refused."
    from multiagent_ft.training.dpo import DPO

    class Own(DPO):
        trial = property()

    assert not hasattr(Own(), 'trial')
    assert ft.check_trainable(HFEngine('nano', device='cpu'), dict(rank=4), Own()) == {}


def test_saved_society_names_its_base_and_peft_loads_it(tmp_path):
    "The store's adapter names no path of this machine; the society's copy names its base."
    import torch
    from peft import AutoPeftModelForCausalLM
    from multiagent_ft.engines.huggingface import adapter_identity
    from multiagent_ft.method.debate import Agent, Protocol, Society
    from multiagent_ft.method.prompts import EngineSpec
    from multiagent_ft.runs.society import save_society, with_engine

    base = tiny_models.make('qwen2', tmp_path / 'base')
    [stored] = tiny_models.random_adapters(tmp_path / 'store', 1, model=str(base))
    config = json.loads((stored / 'adapter_config.json').read_text())
    (stored / 'adapter_config.json').write_text(json.dumps(config | dict(base_model_name_or_path=None)))
    society = Society((Agent('generator', 0, str(stored)),), ())
    for _ in range(2):  # the second finds it there
        save_society(with_engine(society, EngineSpec('hf', dict(model=str(base))), Protocol()), tmp_path / 'society')
    saved = tmp_path / 'society' / 'adapters' / 'generator-0'
    assert adapter_identity(saved) == adapter_identity(stored)
    assert json.loads((saved / 'adapter_config.json').read_text())['base_model_name_or_path'] == str(base)
    assert json.loads((stored / 'adapter_config.json').read_text())['base_model_name_or_path'] is None
    model, prompt, answer = AutoPeftModelForCausalLM.from_pretrained(saved).eval(), (5, 6, 7), (8, 9)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, 2:4].log_softmax(-1)
    ours = HFEngine(str(base), device='cpu').logprobs([prompt], [answer], str(saved))[0]
    assert max(abs(float(logits[i, t]) - float(p)) for i, (t, p) in enumerate(zip(answer, ours))) < 1e-3


@pytest.mark.parametrize('name', ['adapter_model.safetensors', 'adapter_config.json'])
@pytest.mark.parametrize('contents', [b'', b'{', b'[]', b'\xff\xfe' * 50], ids=repr)
def test_damaged_adapter_is_one_line(tmp_path, name, contents):
    from multiagent_ft.engines.huggingface import adapter_identity

    [folder] = tiny_models.random_adapters(tmp_path, 1)
    assert adapter_identity(folder)
    (folder / name).write_bytes(contents)
    with pytest.raises(MaftError, match='damaged') as e:
        adapter_identity(folder)
    assert len(str(e.value).splitlines()) == 1


def test_tokenizer_with_more_tokens_than_the_model(tmp_path):
    from transformers import AutoTokenizer
    from multiagent_ft.core import Message
    from multiagent_ft.method.prompts import Request, Sampling

    folder = tiny_models.make('qwen2', tmp_path / 'm')
    tok = AutoTokenizer.from_pretrained(folder)
    tok.add_tokens(['newtoken'])
    tok.save_pretrained(folder)
    e = HFEngine(str(folder), device='cpu')

    def ask(text):
        return e.generate([Request((Message('user', text),), 0, Sampling(max_new_tokens=2))])

    assert ask('What is 1+1?')  # tokens that no text needs do no harm (Gemma 3 has one)
    with pytest.raises(MaftError, match="'newtoken' is .* embeddings end at"):
        ask('What is newtoken?')
    with pytest.raises(MaftError, match='embeddings end at'):
        e.logprobs([e.render((Message('user', 'newtoken'),))], [(5,)])


@pytest.mark.parametrize('name', ['llama', 'gemma2', 'falcon_h1', 'granitemoe', 'phimoe'])
def test_loss_in_pieces_is_the_whole_loss(engine, tmp_path, name):
    "Same loss and gradients where logits are capped (Gemma 2), scaled (Falcon H1, Granite) or come from experts."
    import torch
    from multiagent_ft.training import trainer as tr

    e = engine(name) if name in CASES else HFEngine(str(tiny_models.make(name, tmp_path / name)), device='cpu')
    model = tr.init_model(e.base, None, TrainingSettings(rank=4), 0)
    for n, p in model.named_parameters():
        if 'lora_B' in n:
            torch.nn.init.normal_(p, std=0.02)
    ids = torch.randint(5, 200, (3, 20), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :8], labels[1, 15:] = -100, -100

    def loss_and_gradients(loss):
        model.zero_grad()
        loss.backward()
        return float(loss.detach()), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    assert tr.takes_pieces(model.get_base_model(), ids)
    whole, ours = loss_and_gradients(tr.completion_loss(model, ids, labels))
    parts, theirs = loss_and_gradients(tr.piecewise_loss(model, ids, labels, at_once=7))
    assert abs(whole - parts) < 1e-3 and ours.keys() == theirs.keys() and len(ours) > 4
    assert all((ours[n] - theirs[n]).abs().max() <= 1e-4 * (1e-3 + ours[n].abs().max()) for n in ours)


def test_model_whose_logits_need_more_than_its_body_is_trained_whole(engine):
    import torch
    from multiagent_ft.training import trainer as tr

    base = engine('llama4').base
    ids = torch.tensor([[5, 6, 7]])
    assert not tr.takes_pieces(tr.init_model(base, None, TrainingSettings(rank=4), 0).get_base_model(), ids)


def test_large_vocabulary_takes_the_pieces(engine, monkeypatch):
    "The trainer's own loss, forced into pieces, trains the same adapter up to rounding; head and all weights too."
    import torch
    from multiagent_ft.training import trainer as tr

    base = engine('granitemoe').base
    ids = torch.randint(5, 200, (2, 12), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :2] = -100
    model = tr.init_model(base, None, TrainingSettings(method='full'), 0)
    whole = tr.completion_loss(model, ids, labels)
    whole.backward()
    ours = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    monkeypatch.setattr(tr, 'LOGITS_AT_ONCE', 1 << 12)
    monkeypatch.setattr(tr, 'summed_loss', count := Counting(tr.summed_loss))
    parts = tr.completion_loss(model, ids, labels)
    parts.backward()
    assert count.calls > 5 and abs(whole.item() - parts.item()) < 1e-3
    theirs = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys() and any('embed' in n or 'lm_head' in n for n in ours)
    assert all((ours[n] - theirs[n]).abs().max() <= 1e-4 * (1e-3 + ours[n].abs().max()) for n in ours)


class Counting:
    "A function that counts its calls."

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args):
        self.calls += 1
        return self.function(*args)
