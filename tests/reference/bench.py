"""What `hearth bench` measures, done the usual way: torch, transformers, peft, PyTorch Geometric, sentence-transformers, networkx, datasets, trl.

    bench.py CASE FOLDER THREADS

FOLDER holds model/, data.jsonl and spec.json, which every case has in the form it needs; twin.json is written into it.
requirements.txt has what must be installed.

Training of language models is what transformers and peft give: batches of so many records in the order of the data, padded on
the right, labels on the learned tokens, logits of all tokens. GLOW is in glow.py. The GPU is used where there is one.
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch


def sync(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def padded(rows, size):
    """Batches of so many rows, padded on the right."""
    for first in range(0, len(rows), size):
        batch = rows[first : first + size]
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
        yield len(batch), {"input_ids": ids, "labels": labels, "attention_mask": attention}


def best_fit(lengths, size):
    """Numbers of sequences, longest first, each in the fullest bin that has room for it."""
    bins = []
    for number in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [b for b in bins if b[0] + lengths[number] <= size]
        chosen = max(fitting, key=lambda b: b[0]) if fitting else [0, []]
        if not fitting:
            bins.append(chosen)
        chosen[0] += lengths[number]
        chosen[1].append(number)
    return [numbers for _, numbers in bins]


def packed(rows, size):
    """Rows of up to so many tokens; each sequence sees itself only, and its positions begin at 0."""
    for numbers in best_fit([len(row["input_ids"]) for row in rows], size):
        ids, labels, positions, owner = [], [], [], []
        for number in numbers:
            row = rows[number]
            ids += row["input_ids"]
            # Nothing is said of a first token.
            labels += [i if m and at else -100 for at, (i, m) in enumerate(zip(row["input_ids"], row["mask"]))]
            positions += range(len(row["input_ids"]))
            owner += [number] * len(row["input_ids"])
        owner = torch.tensor(owner)
        seen = (owner[:, None] == owner[None, :]).tril()
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
        yield len(numbers), {
            "input_ids": torch.tensor([ids]),
            "labels": torch.tensor([labels]),
            "position_ids": torch.tensor([positions]),
            "attention_mask": mask,
        }


def train(model, spec, rows, device, folder, batches):
    from peft import PeftModel

    model = PeftModel.from_pretrained(model, folder / "adapter", is_trainable=True).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=spec["lr"], weight_decay=0.0)
    seconds, total, learned, timed, losses = 0.0, 0.0, 0, 0, []
    # On a GPU everything is done once before, on the CPU nothing is.
    for warm in ([True, False] if device.type == "cuda" else [False]):
        for records, batch in batches(rows, spec["batch"]):
            count = int((batch["labels"][:, 1:] != -100).sum())
            sync(device)
            start = time.perf_counter()
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            value = loss.item()
            if not warm:
                seconds += time.perf_counter() - start
                timed += records
                total += value * count
                learned += count
                losses.append(value)
    return {"count": timed, "seconds": seconds, "loss": total / learned, "losses": losses}


def tokenize(folder, spec, rows, device):
    """What trl does with chats: prompts and whole conversations are rendered and tokenised, then packed."""
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")

    def sample(row):
        ids = tokenizer.apply_chat_template(row["messages"], tokenize=True, return_dict=True)["input_ids"]
        prompt = tokenizer.apply_chat_template(
            row["messages"][:-1], tokenize=True, add_generation_prompt=True, return_dict=True
        )["input_ids"]
        return {"input_ids": ids, "completion_mask": [0] * len(prompt) + [1] * (len(ids) - len(prompt))}

    start = time.perf_counter()
    data = load_dataset("json", data_files=str(folder / "data.jsonl"), split="train", cache_dir=str(folder / "cache"))
    data = data.map(sample, num_proc=2, remove_columns=data.column_names)
    try:
        from trl.data_utils import pack_dataset

        pack_dataset(data, seq_length=2048, strategy="bfd")
    except ImportError:
        best_fit([len(ids) for ids in data["input_ids"]], 2048)
    seconds = time.perf_counter() - start
    return {"count": len(data), "seconds": seconds, "loss": float(sum(len(ids) for ids in data["input_ids"]))}


@torch.no_grad()
def embed(model, spec, rows, device):
    sync(device)
    start = time.perf_counter()
    for row in rows:
        ids = torch.tensor([row["input_ids"]], device=device)
        states = model(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        states[0, -1].float().cpu()
    return {"count": len(rows), "seconds": time.perf_counter() - start}


def sample(model, spec, rows, device):
    return decode(model, spec, rows, device, do_sample=True, temperature=0.8, top_k=50, top_p=0.95)


@torch.no_grad()
def decode(model, spec, rows, device, **sampling):
    ids = torch.tensor([row["input_ids"] for row in rows], device=device)
    mask = torch.ones_like(ids)
    n = spec["new_tokens"]

    def run(n):
        length = {"max_new_tokens": n, "min_new_tokens": n, "pad_token_id": 0}
        return model.generate(ids, attention_mask=mask, **length, **(sampling or {"do_sample": False}))

    run(4)
    sync(device)
    start = time.perf_counter()
    out = run(n)
    sync(device)
    return {"count": (out.shape[1] - ids.shape[1]) * len(rows), "seconds": time.perf_counter() - start}


def minilm(folder, spec, rows, device):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder / "model"), device=str(device))
    texts = [row["text"] for row in rows]
    if device.type == "cuda":
        model.encode(texts, show_progress_bar=False)
    start = time.perf_counter()
    vectors = model.encode(texts, show_progress_bar=False)
    return {"count": len(texts), "seconds": time.perf_counter() - start, "loss": float(vectors[0][0])}


def questions(folder, spec, rows, device):
    """Three rounds of questions about every graph, asked of a networkx graph."""
    import random

    import networkx as nx

    random.seed(1)
    workflows = [({int(n): text for n, text in row["nodes"]}, row["edges"]) for row in rows]
    start = time.perf_counter()
    records = []
    for number, (nodes, edges) in enumerate(workflows):
        for turn in range(3):
            graph = nx.DiGraph()
            graph.add_nodes_from(nodes)
            graph.add_edges_from(edges)
            ids = list(graph.nodes)

            def ask(kind, question, answer):
                prompt = (
                    "A directed graph, whose nodes carry texts.\n\n"
                    f"Nodes: {nodes}\nEdges (source, target): {edges}\n\n{question}\n"
                    "Write down your analysis, then the final answer between <answer> and </answer>."
                )
                messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
                records.append({"messages": messages, "task_type": kind, "id": str(len(records) + 1), "workflow": number})

            node, which = random.choice(ids), random.choice(["in", "out", "average"])
            if which == "in":
                ask("DBP", f"What is the in-degree of node {node}?", str(graph.in_degree(node)))
            elif which == "out":
                ask("DBP", f"What is the out-degree of node {node}?", str(graph.out_degree(node)))
            else:
                mean = sum(degree for _, degree in graph.degree()) / graph.number_of_nodes()
                ask("DBP", "What is the average degree?", f"{mean:.2f}")
            node, which = random.choice(ids), random.choice(["in", "out"])
            near = graph.predecessors(node) if which == "in" else graph.successors(node)
            ask("DNE", f"List the {which} neighbours of node {node}.", str(sorted(near)))
            node = random.choice(ids)
            ask("NFP", f"What is the text of node {node}?", nodes[node])
            source, target = random.sample(ids, 2)
            if not nx.has_path(graph, source, target):
                ask("REACH", f"Can node {source} reach node {target}?", "No")
            elif random.random() < 0.5:
                ask("REACH", f"Can node {source} reach node {target}?", "Yes")
            else:
                length = nx.shortest_path_length(graph, source, target)
                ask("REACH", f"How long is the shortest path from {source} to {target}?", str(length))
            if turn == 0:
                ask("KNI", "List the sources.", str(sorted(n for n in ids if graph.in_degree(n) == 0)))
            elif turn == 1:
                ask("KNI", "List the sinks.", str(sorted(n for n in ids if graph.out_degree(n) == 0)))
            if turn == 0:
                if nx.is_directed_acyclic_graph(graph):
                    ask("TSORT", "Give the topological order.", str(list(nx.lexicographical_topological_sort(graph))))
                else:
                    ask("TSORT", "Give the topological order.", "No valid topological order")
    return {"count": len(records), "seconds": time.perf_counter() - start}


def language(case, folder, spec, rows, device):
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=dtype).to(device).eval()
    run = {"embed": embed, "decode": decode, "decode-batch": decode, "sample-batch": sample}.get(case)
    if run:
        return run(model, spec, rows, device)
    return train(model, spec, rows, device, folder, packed if case == "chats-packed" else padded)


def glow(folder, spec, rows, device):
    from glow import train

    return train(folder, spec, rows, device)


def main():
    case, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    spec = json.loads((folder / "spec.json").read_text())
    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()][: spec["records"]]
    run = {"glow": glow, "questions": questions, "minilm": minilm, "tokenize": tokenize}.get(case)
    figures = run(folder, spec, rows, device) if run else language(case, folder, spec, rows, device)
    figures.setdefault("loss", None)
    figures["peak_mib"] = (
        torch.cuda.max_memory_allocated() / 2**20
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    )
    (folder / "twin.json").write_text(json.dumps(figures))


main()
