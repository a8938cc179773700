"""What `autoprune init` writes: a commented configuration and a task to fill in."""

from __future__ import annotations

CONFIG = """\
# What to prune: digits (built in), path/to/file.py:MyTask or package.module:MyTask.
task: {task}
# task_args: {{width: 64}}       # keyword arguments of the task's class
# data: ../data                # data folder; otherwise the environment variable AUTOPRUNE_DATA

# What the smaller model may cost: absolute (8 ms, 2 MB, 1.5 M) or relative to the dense one (50%).
# A latency may also be a rate: 30 fps is 33.3 ms for each sample of the batch.
# Several limits hold together: params, macs, weight_bytes, peak_memory_bytes, file_bytes,
# latency_ms, latency_p95_ms.
budget:
  latency_ms: 50%

# Where the latency counts.
device:
  runtime: onnxruntime         # torch | torch-compile | openvino | ncnn | executorch
                               # | litert | cuda | cuda-graph | onnxruntime-cuda
                               # | ssh://user@host: measured over there
  threads: 1
  batch: 1
  # profile: device.json       # made by autoprune profile -o; then it says the three above
# Several devices, in place of the one above, and a latency for each of them in the budget:
# devices: {{phone: phone.json, server: {{runtime: torch}}}}
# budget: {{latency_ms: {{phone: 8 ms, server: 50%}}}}

# train_on: auto               # cpu | cuda | auto: where candidates are trained
# arithmetic: auto             # float32 | bfloat16 | auto: the faster of them, as timed here

# What may vary: a preset (standard, int8, channels, channels_and_schedule, quick, unstructured), a
# file, or keys.
space: standard
# keep: ["backbone.*", head]     # groups, layers, blocks that are not pruned: see autoprune profile
# bounds: {{"layer4.*": {{max_ratio: 0.3}}}}   # other ratios (pruned fractions) than the space's

# The recommended model is the cheapest within this loss, or within the limits on metrics.
recommend: drop <= 1 %         # of the dense model's metric; or drop <= 1 pt, >= 0.90
# quality: {{accuracy: ">= 0.90"}}       # limits on any metrics; the search avoids what breaks them

search:
  sampler: tpe                 # tpe | nsga2 | gp | front | random
  # variables: auto            # allocation: a share of the budget and some offsets | ratios | auto
  # objectives: [accuracy, latency_ms]   # default: the task's metric and the first limit
  # levels: [35%, 25%]         # lower limits (of the first cost) to find good models for, too
  trials: 30                   # the search stops at the first of these three limits; up to ten are
                               # first candidates: uniform widths, the allocator's, learning rates
  # total_epochs: 60           # training epochs of all trials together
  # minutes: 30
  patience: 25                 # stop after so many trials without progress of the front; 0 = never
  epochs: 2                    # recovery epochs of one trial; may be a fraction
  rungs: 2                     # evaluations at which poor trials are stopped early; 0 = never
  concurrent: 2                # concurrent trials; cores are divided among them
  seed: 0
  calibration_samples: 1024    # training samples for activation statistics
  # trial_timeout: 600         # seconds without a report after which a trial is ended; default:
                               # ten times the slowest trial so far
  # equal_failures: 5          # trials in a row that fail alike, after which the search stops
  keep_models: front           # models that stay on disk: the front's with its next best, or all
  # max_disk: 5 GB             # how much they may take
  # ray: {{address: auto}}       # train in a running Ray cluster (docs/cluster.md)
  screen: 32                   # a quarter of so many proposals is scored for each trial; 0 = none
  baselines:                   # models to compare with; the first uniform ones count as trials
    uniform: 3
    random: 1
    scratch: false
    # smaller: {{net20: {{depth: 20}}}}    # other dense models, by name: task_args or a task

# starting_models: {{large: {{depth: 56}}, small: {{depth: 20}}}}   # dense models to start from
# from_run: results/earlier    # use profiles, sensitivities and trials of an earlier run again
# track: [tensorboard]         # tensorboard | mlflow: follow the search there, too
# output: results/my-run       # default: results/<task>-<date-time>
# base: .                      # also searched for the task's modules and checkpoint
"""

TASK = '''\
"""The model, its data and its metric, as autoprune needs them."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import autoprune


class MyTask(autoprune.Task):
    # checkpoint = "weights.safetensors"  # trained weights, beside this file; or train them once:
    dense_epochs = 5
    # metric = "accuracy"                 # a key of what evaluate() returns, and its direction:
    # direction = "maximize"

    def build_model(self):
        first, second = nn.Linear(20, 64), nn.Linear(64, 64)
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(64, 4))

    def example_input(self):
        return torch.zeros(1, 20)

    def train_loader(self, seed):
        order = torch.Generator().manual_seed(seed)
        return DataLoader(self.split(0, 2000), batch_size=64, shuffle=True, generator=order)

    def val_loader(self):
        return DataLoader(self.split(1, 500), batch_size=256)

    def test_loader(self):
        return DataLoader(self.split(2, 500), batch_size=256)

    def split(self, seed, size):  # your data instead: training, validation and test kept apart
        x = torch.randn(size, 20, generator=torch.Generator().manual_seed(seed))
        return TensorDataset(x, (x[:, 0] > 0).long() + 2 * (x[:, 1] * x[:, 2] > 0).long())

    # The defaults are cross-entropy and accuracy for batches (inputs, targets); otherwise define
    # loss(self, model, batch) and evaluate(self, model, split) -> {"my_metric": value}.
'''
