#!/usr/bin/env bash
# Trains the models that Carry ships, each by one `carry train` command with a fixed seed.
#   DATA=/path/to/series TEXT=/path/to/texts models/train.sh [sine] [walk] [stock] [forecast-unseen] [forecast] [text] [text-fast] [shakespeare]
#     [ptb] [control-charts] [languages] [dates]
# `sine`, `walk`, `control-charts` and `dates` make their own data. The other files, and where they come from: docs/training.md.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p runs # also of the checkpoints: the same command goes on where it was stopped

for name in "${@:-sine walk stock forecast-unseen forecast text text-fast shakespeare control-charts languages dates}"; do
  for model in $name; do
    case $model in
      sine)
        python -m training.data.synthetic sine > runs/sine.csv
        carry train forecast runs/sine.csv --name sine \
          --description "LSTM of 16 units trained on sin(0) ... sin(35) only; the 36 values after are the test part." \
          --horizon 1 --context 36 --quantiles 0.5 --cell lstm --hidden 16 --scaling standard --mask-rate 0 --rows 1 \
          --valid 0 --test 0.5 --epochs 3000 --learning-rate 1e-2 --no-baselines --seed 1 ;;
      walk)
        python -m training.data.synthetic walk > runs/walk.csv
        carry train forecast runs/walk.csv --name walk \
          --description "Elman network of 64 tanh units on random walks with steps N(0, 0.1); no forecast can have a smaller mean squared error than 0.01." \
          --horizon 1 --context 60 --cell elman --hidden 64 --scaling standard --mask-rate 0 --rows 20 \
          --epochs 120 --patience 30 --learning-rate 3e-3 --windows 2400 --no-baselines --seed 1 ;;
      stock)
        carry train forecast "${DATA:?the folder of series}/csv/google-stock-train.csv.gz" --name stock \
          --description "The classic exercise: the next daily closing price of Google from 60 days of close, open and volume." \
          --target Close --features Open,Volume --horizon 1 --context 60 --cell lstm --hidden 50 --rows 8 \
          --dropout 0 --epochs 40 --patience 10 --windows 120 --private --seed 1 ;;
      forecast-unseen | forecast) # a first stage on a GPU, a last one anywhere: see docs/training.md
        # forecast-unseen: without the M1, M3 and NN3 competitions, on which it is measured as on strangers. Not shipped.
        data=${DATA:?the folder of series}
        competitions=("$data"/{m3,m1,nn3}.jsonl.gz) models=models more=()
        [ "$model" = forecast ] && more=("${competitions[@]}") || models=runs/models
        train=(carry train global "${more[@]}"
          "$data"/{nngc1,australia-panels,currencies-monthly,currencies-annual,gapminder-yearly,gefcom2012,daily-and-faster,nab-real}.jsonl.gz
          "$data"/{chicago-daily,wikipedia-daily,daily-mixed,hourly-mixed,pjm-hourly,jewelry-weekly}.jsonl.gz
          "$data"/m4/{Hourly,Weekly}-train.csv.gz --benchmarks "$(IFS=,; echo "${competitions[*]}")"
          --no-baselines --precision float32 --seed 1)
        "${train[@]}" --name "$model-base" --models-dir runs/models --batch 10 --epochs 46 --learning-rate 4e-3 --device cuda
        OMP_NUM_THREADS=1 "${train[@]}" --name "$model" --models-dir "$models" --start-from "runs/$model-base" \
          --description "Forecasts series of any kind: any unit, level, length and season, also ones nobody has seen." \
          --epochs 20 --learning-rate 1e-3 --synthetic 0.35 --device cpu --widening 1:1.01,4:1.13,7:0.87,12:1.03,24:1.02,52:1.27 ;;
      text) # on a GPU, and some gigabytes of memory; a script with these options made what is shipped: see its card
        prose=${TEXT:?the folder of texts}/prose
        carry train text "$prose"-{train,more-1,more-2,more-3,more-4}.jsonl.gz \
          --valid-on "$prose-unseen-valid.jsonl.gz" --test-on "$prose-valid.jsonl.gz" \
          --name text --description "Continues English prose: learnt from 584 works published up to 1928." \
          --start-from none --cell lstm --layers 2 --hidden 512 --embedding 64 --residual --ngrams 6 --dropout 0 --rows 512 \
          --muon --average 0.998 --schedule wsd --epochs 72 --patience 0 --learning-rate 1.2e-2 \
          --precision float32 --device cuda --seed 1 ;;
      text-fast) # as text
        prose=${TEXT:?the folder of texts}/prose
        carry train text "$prose"-{train,more-1,more-2,more-3,more-4}.jsonl.gz \
          --valid-on "$prose-unseen-valid.jsonl.gz" --test-on "$prose-valid.jsonl.gz" \
          --name text-fast --description "Continues English prose, at a third of the cost of the model text." \
          --start-from none --cell lstm --layers 1 --hidden 384 --embedding 64 --ngrams 6 --dropout 0 --rows 512 \
          --muon --average 0.998 --schedule wsd --epochs 36 --patience 0 --learning-rate 1.2e-2 \
          --precision float32 --device cuda --seed 1 ;;
      shakespeare) # what is shipped went on from the first text, of 61 novels; from this one it is worse: docs/experiments.md
        OMP_NUM_THREADS=1 carry train text "${TEXT:?the folder of texts}/tinyshakespeare.txt.gz" --name shakespeare \
          --description "Continues text in the manner of Shakespeare's plays; it first learnt English from the model text." \
          --start-from models/text/1 --dropout 0.4 --weight-dropout 0.2 --rows 32 --valid 0.02 --test 0.1 \
          --muon --average 0.99 --epochs 10 --patience 100 --learning-rate 2e-3 --precision bfloat16 --seed 1 ;;
      dates)
        python -m training.data.dates train > runs/dates.tsv
        python -m training.data.dates unseen > runs/dates-unseen.tsv
        OMP_NUM_THREADS=1 carry train text --pairs runs/dates.tsv --test-on runs/dates-unseen.tsv --name dates \
          --description "Writes a date as ISO 8601 that people wrote in any way, in thirteen European languages." \
          --hidden 256 --embedding 32 --dropout 0 --rows 64 --epochs 40 --patience 40 --learning-rate 3e-3 --weight-decay 0.01 --valid 0.01 --seed 1 ;;
      ptb) # only to be measured: the text is not free, so the model is not shipped
        for part in train valid; do
          zcat "${TEXT:?the folder of texts}/ptb.$part.txt.gz" | sed 's/^ //; s/ $//' > "runs/ptb-$part.txt"
        done
        OMP_NUM_THREADS=1 carry train text runs/ptb-train.txt --valid-on runs/ptb-valid.txt --test-on runs/ptb-valid.txt \
          --name ptb --models-dir runs/models --description "Characters of the Penn Treebank." \
          --start-from none --cell lstm --layers 2 --hidden 512 --residual --ngrams 6 --dropout 0.3 --weight-dropout 0.2 --rows 32 \
          --muon --average 0.998 --epochs 12 --patience 100 --learning-rate 4e-3 --precision bfloat16 --seed 1 ;;
      control-charts)
        python -m training.data.control_charts > runs/control-charts.jsonl
        OMP_NUM_THREADS=1 carry train classify runs/control-charts.jsonl --name control-charts \
          --description "Tells six patterns of a control chart, from values in standard deviations of the process from its usual mean. Learnt from charts that training/data/control_charts.py makes." \
          --cell gru --hidden 32 --dropout 0.1 --mask-rate 0.02 --rows 32 --learning-rate 3e-3 --epochs 20 --patience 20 --seed 1 ;;
      languages)
        python -m training.data.languages sentences "${SENTENCES:?the folder server/data of Common Voice}" > runs/sentences.jsonl
        python -m training.data.languages declaration "${DECLARATION:?the folder of udhr2}" > runs/declaration.jsonl
        OMP_NUM_THREADS=1 carry train classify runs/sentences.jsonl --test-on runs/declaration.jsonl --name languages \
          --description "Tells in which of 36 languages a text is: a sentence, or a few words. Learnt from sentences of Common Voice (CC0), measured on the Universal Declaration of Human Rights." \
          --cell gru --hidden 96 --min-count 10 --rows 128 --learning-rate 4e-3 --valid 0.05 --weighted --epochs 4 --no-baselines --seed 1 ;;
      *) echo "no model $model; there are sine, walk, stock, forecast-unseen, forecast, text, text-fast, shakespeare, ptb, control-charts, languages, dates" >&2; exit 2 ;;
    esac
  done
done
