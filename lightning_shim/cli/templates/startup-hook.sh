# Determined sources this file in every container before it starts the training.
# It installs the wheel that lies beside it, with what the example needs. The image's own torch stays: pip takes
# its version as a constraint, and stops with an error where the wheel asks for another.
constraint="$(mktemp)" &&
    python3 -c 'import torch; print(f"torch=={torch.__version__}")' > "$constraint" &&
    python3 -m pip install --constraint "$constraint" "$(ls lightning_shim-*.whl)[examples]"
