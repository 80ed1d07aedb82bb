#!/bin/bash
# Run the study on one core, or continue it where it stopped. In its folder (FOLDER, below) lie: maft (a clone of this
# repository at the commit that froze the settings, with .venv), models/qwen-half and svamp-study.jsonl.
#     nohup FOLDER/go.sh > /dev/null 2>&1 &
FOLDER=$(dirname "$(readlink -f "$0")")
cd "$FOLDER" || exit 1
exec 9> lock
flock -n 9 || { echo 'it is running'; exit 0; }
export PYTHONPATH=$FOLDER/maft OMP_NUM_THREADS=1 WANDB_MODE=offline HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1
rows=()
# row by row, each in a process of its own: what training held in memory is given back
for row in base majority majority-equal debate multiagent-ft union-ft majority-ft base:temperature=0; do
    # the rows before need no critics; how these are asked must be settled before the first debate
    [ "$row" != debate ] || [ -f wording-settled ] || { echo 'settle the wording of critics first, see README'; exit 0; }
    rows+=("$row")
    nice -n 10 taskset -c 1 maft/.venv/bin/python -c 'from multiagent_ft.cli import main; main()' compare "${rows[@]}" \
        --config maft/nbs/results/svamp/study.yaml --seeds 1 --out out --store store >> go.log 2>&1 || exit 1
    echo "$(date '+%F %T') $row is complete" >> done.log
done
