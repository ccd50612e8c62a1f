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
import time
import urllib.parse

import pytest
from PIL import Image

from qresnet_jax import load_config
from qresnet_jax.data import load_dataset

REPO = pathlib.Path(__file__).parents[3]
BEST = '<li class="best"'


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """`chromium(address)`: the page in HTML, after all that it asks for has arrived."""
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
def server(exported):
    """A web server of the export's directory, which answers a request for /wait after `server.seconds`."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/wait":
                time.sleep(self.server.seconds)
            super().do_GET()

        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=exported)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def dump(chromium, server):
    """`dump(path, until, address, **wishes)`: a page as it is when it has a text; `address` is that of its directory.

    Chromium takes what a page is when it has received everything, and does not wait for WebAssembly to be compiled. So an
    image that is long in coming is added to the page.
    """

    def dump(path, until, address, **wishes):
        copy = path.with_name("copy.html")
        copy.write_text(f'{path.read_text("utf-8")}<img src="{server.address}/wait" hidden>', "utf-8")
        for server.seconds in (1, 5, 30):
            page = chromium(f"{address}/copy.html?{urllib.parse.urlencode(wishes)}")
            if until in page:
                return page
        raise AssertionError(f"there is no {until} in {page}")

    return dump


@pytest.fixture(scope="module")
def samples(digits):
    """Test images of the digits, and their classes."""
    return load_dataset(load_config("digits").data).test


def best(page):
    name, percent = re.search(r'<li class="best".*?<span>(.*?)</span><span>(.*?) %</span>', page).groups()
    return html.unescape(name), float(percent)


def test_the_page_of_an_export_classifies_a_picture(dump, server, exported, samples):
    for i in (0, 3):
        Image.fromarray(samples.images[i][..., 0]).resize((160, 160), 0).save(exported / "digit.png")
        page = dump(exported / "index.html", BEST, server.address, picture="digit.png")
        name, percent = best(page)
        assert name == str(samples.labels[i]) and percent > 50
    assert "8 pixels, grey · 10 classes · WebAssembly with vectors" in page
    assert re.search(r'id="problem" role="alert" hidden=""', page)


def test_the_page_waits_for_a_picture(dump, server, exported):
    page = dump(exported / "index.html", "10 classes", server.address)
    assert BEST not in page and 'id="answer" hidden' in page


def test_the_page_says_what_is_no_picture(dump, server, exported):
    (exported / "text.png").write_text("no picture")
    message = "This is no picture that the browser can read"
    page = dump(exported / "index.html", message, server.address, picture="text.png")
    assert BEST not in page


def test_a_page_from_the_disk_says_how_to_open_it(chromium, exported):
    page = chromium((exported / "index.html").as_uri())
    assert "Serve this folder to open the page: python -m http.server, then http://localhost:8000" in page
    assert not re.search(r'id="problem" role="alert" hidden', page)


def test_the_page_with_several_networks_opens_from_the_disk(dump, run_main, samples, tmp_path):
    networks = ("digits_mobilenet_w1a2", "digits_vgg_small_w1a2")
    program = (sys.executable, REPO / "examples" / "browser_page.py")
    done = run_main(tmp_path / "page.html", *networks, program=program, cwd=tmp_path, PYTHONPATH=str(REPO))
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"wrote {tmp_path}/page.html with 2 networks, [\d,]+ bytes\n", done.stdout)
    file = io.BytesIO()
    Image.fromarray(samples.images[0][..., 0]).save(file, "PNG")
    picture = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    page = dump(tmp_path / "page.html", BEST, tmp_path.as_uri(), network=networks[1], picture=picture)
    assert best(page)[0] == str(samples.labels[0])
    assert re.findall(r"<option.*?>(.*?)</option>", page) == list(networks)
