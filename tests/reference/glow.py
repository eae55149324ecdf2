"""GLOW's predictor and its training the usual way: PyTorch Geometric's batches and attention, PyTorch's transformer encoder,
a loop over the tasks of a batch for the contrastive term.

The parameters have the names of the file that Hearth writes, so that both start from the same numbers.
"""

import json
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GATConv, global_mean_pool


def mlp(d_in, d_out, hidden, layers, dropout):
    parts = []
    for i in range(layers - 1):
        parts += [nn.Linear(d_in if i == 0 else hidden, hidden), nn.LeakyReLU(0.01), nn.Dropout(dropout)]
    parts.append(nn.Linear(hidden if layers > 1 else d_in, d_out))
    return nn.Sequential(*parts)


class Encoder(nn.Module):
    def __init__(self, d_in, spec):
        super().__init__()
        h, heads = spec["hidden"], spec["heads"]
        widths = [d_in] + [h] * (spec["layers"] - 1)
        self.gnn_layers = nn.ModuleList(GATConv(w, h // heads, heads=heads) for w in widths)
        self.batch_norms = nn.ModuleList(nn.LayerNorm(h) for _ in widths)
        self.lin = nn.Linear(h, h)
        self.node_decoder = nn.Linear(h, d_in)
        self.adj_decoder = nn.Bilinear(h, h, 1)
        self.dropout = spec["dropout"]

    def forward(self, x, edge_index, batch):
        last = len(self.gnn_layers) - 1
        for i, (layer, norm) in enumerate(zip(self.gnn_layers, self.batch_norms)):
            x = norm(layer(x, edge_index))
            if i < last:
                x = F.dropout(F.leaky_relu(x, 0.01), self.dropout, self.training)
        return self.lin(global_mean_pool(x, batch))


class Predictor(nn.Module):
    def __init__(self, d_llm, d_text, spec):
        super().__init__()
        h, n, p = spec["hidden"], spec["mlp_layers"], spec["dropout"]
        self.task_projector = mlp(d_text, h, h, n, p)
        self.llm_projector = mlp(d_llm, h, h, n, p)
        self.gnn_encoder = Encoder(d_text, spec)
        self.llm_embedding_batch_norm = nn.LayerNorm(h)
        self.graph_embedding_batch_norm = nn.LayerNorm(h)
        self.task_embedding_batch_norm = nn.LayerNorm(h)
        self.pred_token = nn.Parameter(torch.zeros(1, 1, h))
        self.type_embedding = nn.Embedding(4, h)
        layer = nn.TransformerEncoderLayer(h, spec["fusion_heads"], spec["ff"], p, batch_first=True)
        self.fusion_encoder = nn.TransformerEncoder(layer, spec["fusion_layers"], enable_nested_tensor=False)
        self.final_mlp = mlp(h, 1, h, n, p)

    def forward(self, data):
        llm = self.llm_embedding_batch_norm(self.llm_projector(data.llm))
        graph = self.graph_embedding_batch_norm(self.gnn_encoder(data.x, data.edge_index, data.batch))
        task = self.task_embedding_batch_norm(self.task_projector(data.task))
        pred = self.pred_token.expand(len(llm), -1, -1)
        tokens = torch.cat([pred, llm[:, None], graph[:, None], task[:, None]], 1)
        tokens = self.fusion_encoder(tokens + self.type_embedding.weight)
        return self.final_mlp(tokens[:, 0])[:, 0], llm, graph


def contrast(vectors, labels, margin):
    """Mean positive against mean negative distance of every anchor of a task, from the matrix of its distances."""
    positive = labels == 1
    if positive.sum() < 2 or (~positive).sum() < 1:
        return vectors.new_zeros(())
    unit = F.normalize(vectors, dim=1)
    distance = 1 - unit @ unit.T
    same = positive[:, None] & positive[None, :] & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    other = positive[:, None] & ~positive[None, :]
    near = (distance * same).sum(1)[positive] / same.sum(1)[positive]
    far = (distance * other).sum(1)[positive] / other.sum(1)[positive]
    return F.relu(near - far + margin).mean()


def loss_of(model, data, spec):
    logits, llm, graph = model(data)
    loss = F.binary_cross_entropy_with_logits(logits, data.y)
    total, count = 0.0, 0
    for task in data.task_id.unique():
        chosen = data.task_id == task
        if chosen.sum() >= spec["min_group"]:
            for vectors in (llm, graph):
                total = total + contrast(vectors[chosen], data.y[chosen], spec["margin"])
            count += 2
    return loss + spec["weight"] * total / max(count, 1)


def train(folder, spec, rows, device):
    tables = load_file(folder / "tables.safetensors")
    workflows = [json.loads(line) for line in (folder / "workflows.jsonl").read_text().splitlines()]
    model = Predictor(tables["llm"].shape[1], tables["text"].shape[1], spec)
    model.load_state_dict(load_file(folder / "model" / "model.safetensors"))
    model = model.to(device)

    def collate(chosen):
        graphs = []
        for row in chosen:
            workflow = workflows[row["workflow"]]
            edges = torch.tensor(workflow["edges"], dtype=torch.long).reshape(-1, 2).T
            graphs.append(
                Data(
                    x=tables["text"][workflow["nodes"]],
                    edge_index=edges,
                    llm=tables["llm"][row["workflow"]][None],
                    task=tables["text"][row["task"]][None],
                    y=torch.tensor([row["label"]]),
                    task_id=torch.tensor([row["task_id"]]),
                )
            )
        return Batch.from_data_list(graphs)

    size = spec["batch"]
    with torch.no_grad():
        first = loss_of(model.eval(), collate(rows[:size]).to(device), spec).item()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4)
    # A shuffled loader, of which the first steps are not timed.
    seconds, count, warm = 0.0, 0, 2
    for epoch in range(2):
        order = torch.randperm(len(rows)).tolist()
        for at in range(0, len(rows) - size + 1, size):
            start = time.perf_counter()
            data = collate([rows[i] for i in order[at : at + size]]).to(device)
            loss = loss_of(model, data, spec)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            if warm > 0:
                warm -= 1
                continue
            seconds += time.perf_counter() - start
            count += size
    return {"count": count, "seconds": seconds, "loss": first}
