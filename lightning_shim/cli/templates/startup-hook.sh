# Determined sources this file in every container before it starts the training.
# It installs the wheel of lightning_shim that lies beside it, and what requirements.txt names if that is there. The
# image's own torch stays: pip takes its version as a constraint, and stops with an error where another is asked for.
constraint="$(mktemp)" &&
    python3 -c 'from importlib.metadata import version; print("torch==" + version("torch"))' > "$constraint" &&
    python3 -m pip install --constraint "$constraint" "$(ls lightning_shim-*.whl)" \
        $(if [ -f requirements.txt ]; then echo --requirement requirements.txt; fi)
