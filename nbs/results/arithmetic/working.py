"""`debate-distill` without the turns that hold no working: is that what broke it on this task?

A recipe of one's own, called by its file:
    maft compare majority-equal debate-distill nbs/results/arithmetic/working.py:debate_distill_worked --config …
"""

from multiagent_ft.method.recipes import all_final_turns
from multiagent_ft.neighbours.selftraining import DEBATE_DISTILL

SHORT = 60  # tokens; as in short.py, frozen there before this was asked


def final_turns_with_working(ctx, society, transcripts, votes):
    "All agreeing last answers of 60 tokens or more, as answers to the bare question, for one model."
    examples = all_final_turns(ctx, society, transcripts, votes)
    return {agent: [e for e in some if len(e.token_ids) >= SHORT] for agent, some in examples.items()}


debate_distill_worked = DEBATE_DISTILL.but(
    'debate-distill-worked',
    source='a study of this project: final turns that show their working',
    select=final_turns_with_working,
)
