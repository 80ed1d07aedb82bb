#!/bin/bash
# Run a study of the real model on one core, or continue it where it stopped: on SVAMP, or on the paper's arithmetic
# (../arithmetic/study.yaml). In its folder (FOLDER, below) lie: maft (a clone of this repository at the commit that froze
# the settings, with .venv), models/qwen-half and, for SVAMP, svamp-study.jsonl, for arithmetic ../arithmetic/working.py.
#     nohup FOLDER/go.sh svamp > /dev/null 2>&1 &
# `go.sh fresh` asks three rows of the arithmetic once more, on a fresh seed: other questions to train and evaluate on.
STUDY=${1:-svamp} SEED=0 OUT=out-$STUDY
WORKED=working.py:debate_distill_worked
case $STUDY in
    svamp) ROWS='base majority majority-equal debate multiagent-ft union-ft majority-ft base:temperature=0' ;;
    # the cheap rows first, since the time may not be enough for all of them
    arithmetic) ROWS="base majority debate majority-equal base:temperature=0 majority-ft multiagent-ft union-ft debate-distill $WORKED" ;;
    fresh) ROWS="majority-equal $WORKED debate-distill" STUDY=arithmetic SEED=1 OUT=out-arithmetic-fresh ;;
    *) echo "no study $STUDY: say svamp, arithmetic or fresh" >&2; exit 2 ;;
esac
FOLDER=$(dirname "$(readlink -f "$0")")
cd "$FOLDER" || exit 1
exec 9> lock
flock -n 9 || { echo 'it is running'; exit 0; }
export PYTHONPATH=$FOLDER/maft OMP_NUM_THREADS=1 WANDB_MODE=offline HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1
rows=()
# row by row, each in a process of its own: what training held in memory is given back
for row in $ROWS; do
    # the rows before need no critics; how these are asked must be settled before the first debate
    [ "$row" != debate ] || [ -f wording-settled ] || { echo 'settle the wording of critics first, see README'; exit 0; }
    rows+=("$row")
    nice -n 10 taskset -c 1 maft/.venv/bin/python -c 'from multiagent_ft.cli import main; main()' compare "${rows[@]}" \
        --config "maft/nbs/results/$STUDY/study.yaml" --seed $SEED --seeds 1 --out "$OUT" --store store >> go.log 2>&1 || exit 1
    echo "$(date '+%F %T') $row is complete" >> done.log
done
