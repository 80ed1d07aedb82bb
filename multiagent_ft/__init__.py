"""Language models that teach themselves by arguing: multiagent finetuning (arXiv 2501.05707)."""
__version__ = "0.2.0"

# What most programs need, and the module each name is looked up in when it is first asked for: importing the package
# costs nothing.
_HOME = dict(
    Answer='core',
    Completion='core',
    MaftError='core',
    Message='core',
    Problem='core',
    Transcript='core',
    Turn='core',
    read='answers.reading',
    ReplayEngine='method.prompts',
    Sampling='method.prompts',
    Agent='method.debate',
    Protocol='method.debate',
    Seeds='method.debate',
    Society='runs.society',
    debate='method.debate',
    untrained='method.debate',
    vote='method.consensus',
    Recipe='method.recipes',
    MULTIAGENT_FT='method.recipes',
    RECIPES='method.recipes',
    RecipeContext='method.recipes',
    Task='runs.tasks',
    LocalExecutor='runs.jobs',
    ProcessExecutor='runs.jobs',
    Config='runs.settings',
    Prompts='method.prompts',
    DEBATE='method.prompts',
    ScriptedEngine='method.prompts',
    EngineSpec='method.prompts',
    Grader='runs.tasks',
    Experiment='runs.experiment',
    Progress='runs.tracking',
    Result='runs.experiment',
    run='runs.run',
)
__all__ = [*_HOME]


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module

    return getattr(import_module(f'{__name__}.{_HOME[name]}'), name)


def __dir__():
    return [*globals(), *_HOME]
