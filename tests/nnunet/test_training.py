from dataclasses import replace

import numpy as np
import pytest
import torch
from nnunet.synthetic import write_patients

from lesiondelta import methods
from lesiondelta.inference import load_model
from lesiondelta.nnunet import presets
from lesiondelta.nnunet.training import train
