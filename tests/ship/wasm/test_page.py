"""The page classifies a picture in a headless Chromium: that of an export, and the one with several networks."""

import base64
import functools
import html
import http.server
import io
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse

import pytest
from PIL import Image

from qresnet_jax import load_config
from qresnet_jax.data import load_dataset

REPO = pathlib.Path(__file__).parents[3]


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    """`dump(address)`: the page as it is after some seconds, in HTML."""
    program = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)
    if program is None:
        pytest.skip("Chromium is not installed")
    profile = tmp_path_factory.mktemp("profile")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000", "--dump-dom"]

    def dump(address):
        command = [program, *options, f"--user-data-dir={profile}", address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return dump


@pytest.fixture(scope="module")
def site(exported):
    """The address of the export's directory on a web server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Quiet, directory=exported)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def samples(digits):
    """Test images of the digits, and their classes."""
    return load_dataset(load_config("digits").data).test


def best(page):
    name, percent = re.search(r'<li class="best".*?<span>(.*?)</span><span>(.*?) %</span>', page).groups()
    return html.unescape(name), float(percent)


def test_the_page_of_an_export_classifies_a_picture(dump, site, exported, samples):
    for i in (0, 3):
        Image.fromarray(samples.images[i][..., 0]).resize((160, 160), 0).save(exported / "digit.png")
        page = dump(f"{site}/index.html?picture=digit.png")
        name, percent = best(page)
        assert name == str(samples.labels[i]) and percent > 50
    assert "8 pixels, grey · 10 classes · WebAssembly with vectors" in page
    assert re.search(r'id="problem" role="alert" hidden=""', page)


def test_the_page_waits_for_a_picture_and_says_what_is_none(dump, site, exported):
    page = dump(f"{site}/index.html")
    assert 'class="best"' not in page and 'id="answer" hidden' in page
    (exported / "text.png").write_text("no picture")
    assert "This is no picture that the browser can read" in dump(f"{site}/index.html?picture=text.png")


def test_a_page_from_the_disk_says_how_to_open_it(dump, exported):
    page = dump((exported / "index.html").as_uri())
    assert "Serve this folder to open the page: python -m http.server, then http://localhost:8000" in page
    assert not re.search(r'id="problem" role="alert" hidden', page)


def test_the_page_with_several_networks_opens_from_the_disk(dump, run_main, samples, tmp_path, tools):
    networks = ("digits_mobilenet_w1a2", "digits_vgg_small_w1a2")
    program = (sys.executable, REPO / "examples" / "browser_page.py")
    done = run_main(tmp_path / "page.html", *networks, program=program, cwd=tmp_path, PYTHONPATH=str(REPO))
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"wrote {tmp_path}/page.html with 2 networks, [\d,]+ bytes\n", done.stdout)
    file = io.BytesIO()
    Image.fromarray(samples.images[0][..., 0]).save(file, "PNG")
    picture = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    wishes = urllib.parse.urlencode({"network": networks[1], "picture": picture})
    page = dump(f"{(tmp_path / 'page.html').as_uri()}?{wishes}")
    assert best(page)[0] == str(samples.labels[0])
    assert re.findall(r"<option.*?>(.*?)</option>", page) == list(networks)
