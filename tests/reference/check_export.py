"""Does a folder that `hearth export` wrote compute, in transformers and peft, what it was made of?

    check_export.py EXPORT [--base BASE] [--adapter ADAPTER] [--scores SCORES | --ids IDS] [--tolerance T]

EXPORT is loaded by transformers; where it is an adapter, by peft on top of BASE. Its logits on some tokens are compared with

- those of BASE with ADAPTER (both unmerged, by transformers and peft), where BASE is given for a merged EXPORT;
- the log-probabilities in SCORES, which `hearth score` wrote with the model before it was exported.

The tokens are the `input_ids` of SCORES' rows or of IDS' (JSON lines), or else a few that are made up. A chat is written with the
tokenizer and its template, where there are any. Prints one JSON object with the largest absolute differences; ends with 1 where one
is above the tolerance.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def load(folder, base=None):
    """A causal language model in f32; with `base`, the adapter in `folder` on top of it."""
    model = AutoModelForCausalLM.from_pretrained(base or folder, dtype=torch.float32)
    if base:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder)
    return model.eval()


def logits(model, rows):
    with torch.no_grad():
        return [model(input_ids=torch.tensor([row])).logits[0] for row in rows]


def largest(pairs):
    return max(float((a - b).abs().max()) for a, b in pairs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--adapter", type=Path)
    tokens = parser.add_mutually_exclusive_group()
    tokens.add_argument("--scores", type=Path)
    tokens.add_argument("--ids", type=Path)
    parser.add_argument("--tolerance", type=float, default=2e-4)
    args = parser.parse_args()
    is_adapter = (args.export / "adapter_config.json").exists()
    if is_adapter and not args.base:
        parser.error("an adapter needs its --base")

    lines = args.scores or args.ids
    rows = [json.loads(line) for line in lines.read_text().splitlines() if line.strip()] if lines else []
    model = load(args.export, args.base if is_adapter else None)
    vocabulary = model.config.vocab_size
    ids = [row["input_ids"] for row in rows] or [[(7 * i * i + 3 * i + 1) % vocabulary for i in range(32)]]
    ours = logits(model, ids)
    found = {"dtype": str(model.config.dtype), "sequences": len(ids), "tokens": sum(map(len, ids))}
    found["largest_logit"] = max(float(values.abs().max()) for values in ours)

    compared = {}
    if args.base:
        pair = load(args.adapter, args.base) if args.adapter else load(args.base)
        compared["logits_base_and_adapter" if args.adapter else "logits_base"] = largest(zip(ours, logits(pair, ids)))
    if args.scores:
        pairs = []
        for values, row in zip(ours, rows):
            chosen = torch.tensor(row["input_ids"][1:])
            ln = values[:-1].log_softmax(-1).gather(1, chosen[:, None])[:, 0]
            pairs.append((ln, torch.tensor(row["logprobs"][1:])))
        compared["logprobs_hearth"] = largest(pairs)
    found["max_abs_difference"] = compared

    if (args.export / "tokenizer.json").exists():
        tokenizer = AutoTokenizer.from_pretrained(args.export)
        if tokenizer.chat_template:
            chat = [{"role": "user", "content": "How many steps?"}]
            found["chat"] = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    print(json.dumps(found, indent=2))
    # For an adapter the pair without it is there to show that it does something.
    wrong = [name for name, value in compared.items() if value > args.tolerance and not (is_adapter and name == "logits_base")]
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
