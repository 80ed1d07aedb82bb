"""Language models that teach themselves by arguing: multiagent finetuning (arXiv 2501.05707). `Society` is all most programs need."""
__version__ = "0.1.0"
__all__ = ['Society']


def __getattr__(name):
    "`Society` is looked up when it is first asked for, so that importing the package costs nothing."
    if name == 'Society':
        from .runs.society import Society
        return Society
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
