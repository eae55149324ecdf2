"""What `hearth bench` measures, done the usual way: torch, transformers and peft.

    bench.py CASE FOLDER THREADS

FOLDER holds model/ (a Hugging Face folder), data.jsonl (`input_ids` and, for training, `mask`) and spec.json; twin.json is
written into it. Needs: torch, transformers, peft (see requirements.txt).

Training is what transformers and peft give: batches of so many records in the order of the data, padded on the right, labels
on the learned tokens, logits of all tokens. The GPU is used where there is one.
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def sync(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def train(model, spec, rows, device):
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=spec["rank"], lora_alpha=spec["alpha"], lora_dropout=0.0, target_modules="all-linear")
    model = get_peft_model(model, config).train()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4)
    seconds, total, learned, timed = 0.0, 0.0, 0, 0
    # On a GPU everything is done once before, on the CPU nothing is.
    for warm in ([True, False] if device.type == "cuda" else [False]):
        for first in range(0, len(rows), spec["batch"]):
            batch = rows[first : first + spec["batch"]]
            length = max(len(row["input_ids"]) for row in batch)
            ids = torch.zeros(len(batch), length, dtype=torch.long)
            labels = torch.full((len(batch), length), -100, dtype=torch.long)
            attention = torch.zeros(len(batch), length, dtype=torch.long)
            for i, row in enumerate(batch):
                n = len(row["input_ids"])
                ids[i, :n] = torch.tensor(row["input_ids"])
                attention[i, :n] = 1
                mask = torch.tensor(row["mask"])
                labels[i, :n][mask] = ids[i, :n][mask]
            count = int((labels[:, 1:] != -100).sum())
            sync(device)
            start = time.perf_counter()
            ids, labels, attention = ids.to(device), labels.to(device), attention.to(device)
            loss = model(input_ids=ids, attention_mask=attention, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            value = loss.item()
            if not warm:
                seconds += time.perf_counter() - start
                timed += len(batch)
                total += value * count
                learned += count
    return {"count": timed, "seconds": seconds, "loss": total / learned}


@torch.no_grad()
def embed(model, spec, rows, device):
    sync(device)
    start = time.perf_counter()
    for row in rows:
        ids = torch.tensor([row["input_ids"]], device=device)
        states = model(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        states[0, -1].float().cpu()
    return {"count": len(rows), "seconds": time.perf_counter() - start}


@torch.no_grad()
def decode(model, spec, rows, device):
    ids = torch.tensor([row["input_ids"] for row in rows], device=device)
    mask = torch.ones_like(ids)
    n = spec["new_tokens"]

    def run(n):
        return model.generate(ids, attention_mask=mask, max_new_tokens=n, min_new_tokens=n, do_sample=False, pad_token_id=0)

    run(4)
    sync(device)
    start = time.perf_counter()
    out = run(n)
    sync(device)
    return {"count": (out.shape[1] - ids.shape[1]) * len(rows), "seconds": time.perf_counter() - start}


def main():
    case, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    spec = json.loads((folder / "spec.json").read_text())
    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()][: spec["records"]]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=dtype).to(device).eval()
    run = {"embed": embed, "decode": decode, "decode-batch": decode}.get(case, train)
    figures = run(model, spec, rows, device)
    figures.setdefault("loss", None)
    figures["peak_mib"] = (
        torch.cuda.max_memory_allocated() / 2**20
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    )
    (folder / "twin.json").write_text(json.dumps(figures))


main()
