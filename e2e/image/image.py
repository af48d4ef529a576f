"""Makes container images from files of this machine, with neither a daemon nor a registry.

An image is a tar as `docker save` writes it. The same files give the same bytes.
"""

import hashlib
import io
import json
import os
import pathlib
import re
import subprocess
import tarfile
import tempfile


class Root:
    """The files of an image."""

    def __init__(self):
        self.entries = {}  # path without a leading slash -> (TarInfo, content)

    def _put(self, path, kind, mode, owner=0, content=b"", target=""):
        path = path.strip("/")
        parent = os.path.dirname(path)
        if parent and parent not in self.entries:
            self.folder(parent)
        entry = tarfile.TarInfo(path)
        entry.type, entry.mode, entry.uid, entry.gid = kind, mode, owner, owner
        entry.size, entry.linkname, entry.mtime = len(content), target, 0
        self.entries[path] = (entry, content)

    def folder(self, path, mode=0o755, owner=0):
        self._put(path, tarfile.DIRTYPE, mode, owner)

    def text(self, path, text, mode=0o644):
        self._put(path, tarfile.REGTYPE, mode, content=text.encode())

    def link(self, path, target):
        self._put(path, tarfile.SYMTYPE, 0o777, target=target)

    def file(self, source, path):
        """One file, whatever it is; what a link points to, not the link."""
        mode = 0o755 if os.access(source, os.X_OK) else 0o644
        self._put(path, tarfile.REGTYPE, mode, content=pathlib.Path(source).read_bytes())

    def tree(self, source, path, skip=()):
        """A folder with all below it, but for what has a name in `skip`."""
        self.folder(path)
        for child in sorted(os.listdir(source)):
            inner, outer = os.path.join(path, child), os.path.join(source, child)
            if child in skip:
                continue
            if os.path.islink(outer) and not os.path.isabs(os.readlink(outer)):
                self.link(inner, os.readlink(outer))
            elif os.path.isdir(outer):
                self.tree(outer, inner, skip)
            else:
                self.file(outer, inner)

    def program(self, source, path):
        """A program or library without its symbols, with the shared libraries that it loads."""
        with tempfile.TemporaryDirectory() as scratch:
            copy = os.path.join(scratch, "program")
            subprocess.run(["strip", "-o", copy, source], check=True)
            os.chmod(copy, os.stat(source).st_mode)
            self.file(copy, path)
        listed = subprocess.run(["ldd", source], capture_output=True, text=True)
        if "not found" in listed.stdout:
            raise SystemExit(f"{source} needs libraries that are not here:\n{listed.stdout}")
        # `name => /path (address)`, and the loader alone as `/path (address)`. The loader looks
        # for all of them in the folders that they are in here, links followed or not.
        for library in re.findall(r"(/\S+) \(0x", listed.stdout):
            self.file(library, library)

    def users(self, name, number, home):
        """Root, and the user that the image runs as."""
        self.text("etc/passwd", f"root:x:0:0:root:/root:/sbin/nologin\n{name}:x:{number}:{number}:{name}:{home}:/sbin/nologin\n")
        self.text("etc/group", f"root:x:0:\n{name}:x:{number}:\n")
        self.text("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")

    def layer(self):
        """All of it as a tar, in the order of the paths, so that folders come first."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for path in sorted(self.entries):
                entry, content = self.entries[path]
                tar.addfile(entry, io.BytesIO(content))
        return out.getvalue()


def save(root, config, name, out):
    """Writes the image `name` to the file `out`."""
    layer = root.layer()
    digest = hashlib.sha256(layer).hexdigest()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    described = json.dumps({
        "architecture": machine,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "e2e/image"}],
    }, sort_keys=True).encode()
    config_name = hashlib.sha256(described).hexdigest() + ".json"
    layer_name = f"{digest}/layer.tar"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": [layer_name]}]
    # A half-written image has no name that anybody looks for.
    partial = f"{out}.partial"
    with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
        for path, content in [
            (config_name, described),
            (layer_name, layer),
            ("manifest.json", json.dumps(manifest).encode()),
        ]:
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    os.replace(partial, out)
