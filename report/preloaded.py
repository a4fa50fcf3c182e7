"""What notebooks import, imported: the process that kernels are forked from reads this.

Whatever is missing here, a notebook imports itself: that takes longer, and no more.
"""

# ruff: noqa: F401, F403
import gc

import datasets
import ipykernel.ipkernel
import ipykernel.zmqshell
import IPython.core.completer
import joblib
import matplotlib.pyplot
import nbconvert.exporters  # by build.py, which multiprocessing runs in each kernel
import nbconvert.writers
import numpy
import pandas
import papermill  # likewise
import scipy.optimize
import scipy.special
import seaborn.objects
import skimage.data
import skimage.io
import sklearn.decomposition
import sklearn.ensemble
import sklearn.linear_model
import sklearn.manifold
import sklearn.metrics
import sklearn.neighbors
import sklearn.pipeline
import sklearn.preprocessing
import torch
import transformers

import cliplib.reports.sheet
import cliplib.reports.widget
import study.baselines
import study.corruption
import study.results
from cliplib import *

# What is imported is never garbage. A kernel that looked through it at each collection
# would lose seconds, and copy its memory.
gc.freeze()
