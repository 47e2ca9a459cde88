# Determined sources this file in every container before it starts the training.
# It installs the newest wheel of lightning_shim that lies beside it, with what it needs, and what requirements.txt
# names if that is there. The image's own torch stays: pip takes its version as a constraint. That is the version of the
# installed distribution, which pip compares with; torch.__version__ may have a local part, such as +cu130, that pip
# does not know of.

{
    case $- in *x*) traces=yes ;; *) traces=no ;; esac
    set +x
} 2> /dev/null

wheel="$(find . -maxdepth 1 -name 'lightning_shim-*.whl' | sort --version-sort | tail -n 1)"
torch="$(python3 -c 'from importlib.metadata import version; print(version("torch"))' 2> /dev/null)" || torch=""
constraint="$(mktemp)"
echo "torch${torch:+==$torch}" > "$constraint"
if [ -f requirements.txt ]; then requirements="--requirement requirements.txt"; else requirements=""; fi

if [ -z "$wheel" ]; then
    echo "startup-hook.sh: there is no lightning_shim-*.whl in $PWD; make one with pip wheel and create the experiment anew." >&2
    return 1
elif [ -z "$torch" ]; then
    echo "startup-hook.sh: this image has no torch; name another in the configuration (environment: {image: ...})." >&2
    return 1
elif python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
    --constraint "$constraint" "$wheel" $requirements; then
    echo "startup-hook.sh: installed ${wheel#./} with what it needs, beside the image's own torch $torch."
else
    echo "startup-hook.sh: ${wheel#./} cannot be installed beside torch $torch, for the reason that pip gives above; name" \
        "an image with a torch that it accepts, or one that has it already (environment: {image: ...})." >&2
    return 1
fi

if [ "$traces" = yes ]; then set -x; fi
