"""A package of somebody else that adds an encoder and a model to mmenc-plugin."""

from setuptools import setup

setup(
    name="mmenc-somebody",
    version="1.0",
    py_modules=["somebody"],
    entry_points={
        "mmenc.encoders": ["length = somebody:LengthEncoder"],
        "mmenc.models": ["ContentOnly = somebody:ContentOnly"],
    },
)
