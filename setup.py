"""Lets installers that look for a setup.py build the package; setup.cfg says everything else."""

from setuptools import setup

setup()
