"""Makes one page that classifies in the browser what you draw, drop or film, with several networks to choose from.

    python examples/browser_page.py                          # page.html, with all networks of the zoo
    python examples/browser_page.py my.html runs/digits/model.safetensors digits_mobilenet_w1a2

The page has everything in it: open it from the disk, or put it anywhere on the web. It needs clang and lld, or
`pip install ziglang`, to be made, and nothing to be used.
"""

import argparse
import base64
import json
import pathlib
import tempfile

from qresnet_jax import load_packed
from qresnet_jax.ship.load import zoo


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("page", nargs="?", type=pathlib.Path, default="page.html", help="the file to write")
    parser.add_argument("networks", nargs="*", help="packed files, or names of networks in the zoo")
    args = parser.parse_args()

    def data(kind, content):
        return f"data:{kind};base64,{base64.b64encode(content).decode()}"

    networks = []
    with tempfile.TemporaryDirectory() as directory:
        for name in args.networks or zoo():
            module, script, page = load_packed(name, engine="numpy").export(directory, format="wasm")
            networks.append({"name": name, "file": data("application/wasm", module.read_bytes())})
        text, script_url = page.read_text("utf-8"), data("text/javascript", script.read_bytes())
    # In the page of an export stands where its one network and its script are; here they are in the page itself.
    text = text.replace('[{"name": "", "file": "model.wasm"}]', json.dumps(networks).replace("<", "\\u003c"))
    text = text.replace("'./model.js'", f"'{script_url}'")
    args.page.write_text(text, "utf-8")
    print(f"wrote {args.page} with {len(networks)} networks, {len(text.encode()):,} bytes")


if __name__ == "__main__":
    main()
