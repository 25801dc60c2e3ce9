"""``nox -s newcomer``: all of the README, from top to bottom, as a new user of a bare Debian 12.

In a chroot made by debootstrap, with what this machine knows of mirrors and package indexes. Needs
root and a network. A second user there, reached by ssh, is the README's second machine. Of the
checks only a few are run, on Debian's own Python; all of them with ``-- --all``.

What is mounted and started lives in namespaces of its own, and ends with them.
"""

from __future__ import annotations

import ast
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from tests.readme import ROOT, Taken, read_transcript, script_of, steps

RELEASE = "bookworm"
PACKAGES = ["python3-venv", "openssh-client", "openssh-server"]
"""What is installed by apt: what the README names, and ssh."""
LEFT_OUT = (".git", ".nox", ".venv", "__pycache__", ".*_cache", ".hypothesis", "build", "dist")
"""What a fresh clone does not have; of its history nothing is needed."""
FEW_CHECKS = "export NOXSESSION=tests-3.11 PYTEST_ADDOPTS=tests/unit/cli\n"
MARK = "=== step"
SECOND_MACHINE = "127.0.0.2"
PR_SET_PDEATHSIG = 1


def main() -> NoReturn:
    lacking = what_is_lacking()
    if lacking:
        sys.exit(f"newcomer: can't be done here: {lacking}")
    # Mounted over, and empty again when the namespace ends, however that comes.
    folder = ROOT / ".nox" / "newcomer"
    folder.mkdir(parents=True, exist_ok=True)
    apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    inside = [sys.executable, "-m", "tests.newcomer", "--inside", str(folder), *sys.argv[1:]]
    os.chdir(ROOT)
    # Without nox it ends, too: unshare itself does not listen to SIGTERM.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.execvp(apart[0], [*apart, *inside])


def what_is_lacking() -> str | None:
    """Why there can't be a chroot here; None when there can."""
    if os.geteuid() != 0:
        return "it needs root, for a chroot"
    if shutil.which("debootstrap") is None:
        return "the command debootstrap is missing (Debian: debootstrap)"
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True)
    return done.stderr.strip() or None


def inside(folder: Path, everything: bool) -> int:
    """Make the chroot, do what the README says there, and tell what came of it."""
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", folder)  # dpkg syncs a lot.
    say("making a Debian")
    logged("debootstrap", "--variant=minbase", RELEASE, str(folder), *mirror())
    connect(folder)
    say("installing " + ", ".join(PACKAGES))
    prepare = folder / "srv" / "prepare.sh"
    prepare.write_text(PREPARE.format(packages=" ".join(PACKAGES), port=free_port()))
    clone = folder / "srv" / "dispy_trio"
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(*LEFT_OUT))
    logged("chroot", str(folder), "sh", "-e", "/srv/prepare.sh")
    configure_pip(folder)

    chosen = steps()
    script = "cd dispy_trio\n" + ("" if everything else FEW_CHECKS) + script_of(chosen, mark=MARK)
    (folder / "home" / "newcomer" / "readme.sh").write_text(script)
    as_user = ["chroot", str(folder), "su", "-", "newcomer", "-c", "sh readme.sh </dev/null"]
    transcript = follow(as_user)
    return judge(read_transcript(chosen, transcript, mark=MARK), len(chosen))


PREPARE = """\
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends {packages}
useradd -m -s /bin/bash newcomer
useradd -m -s /bin/bash -p '*' other
mv /srv/dispy_trio /home/newcomer/
chown -R newcomer: /home/newcomer
su - newcomer -c "mkdir -m 700 .ssh; ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519"
cat >/home/newcomer/.ssh/config <<END
Host other
    HostName 127.0.0.2
    Port {port}
    User other
    StrictHostKeyChecking accept-new
    LogLevel ERROR
END
install -d -m 700 -o other -g other /home/other/.ssh
install -m 600 -o other /home/newcomer/.ssh/id_ed25519.pub /home/other/.ssh/authorized_keys
mkdir -p /run/sshd
/usr/sbin/sshd -o ListenAddress=127.0.0.2 -o Port={port} -o PidFile=none -o UsePAM=no
"""


def connect(folder: Path) -> None:
    """Give it this machine's devices, names, and ways to a network."""
    run("mount", "-t", "proc", "proc", folder / "proc")
    for name in ("dev", "sys"):
        run("mount", "--rbind", f"/{name}", folder / name)
    shutil.copy("/etc/resolv.conf", folder / "etc" / "resolv.conf")
    names = Path("/etc/hosts").read_text().rstrip()
    (folder / "etc" / "hosts").write_text(f"{names}\n{SECOND_MACHINE} other\n")
    dumped = run("apt-config", "dump") if shutil.which("apt-config") else ""
    ways = [line for line in dumped.splitlines() if re.match(r"Acquire::https?::", line)]
    (folder / "etc" / "apt" / "apt.conf.d" / "99ways").write_text("\n".join([*ways, ""]))
    proxies = [f"{k}={v}" for k, v in os.environ.items() if k.lower().endswith("_proxy")]
    (folder / "etc" / "environment").write_text("\n".join([*proxies, ""]))


def configure_pip(folder: Path) -> None:
    """Give it the package indexes of this machine; its own certificates are installed by then."""
    options = pip_options()
    lines = ["[global]", *(f"{name} = {words}" for name, words in options.items()), ""]
    (folder / "etc" / "pip.conf").write_text("\n".join(lines))
    for word in {word for words in options.values() for word in words.split()}:
        if word.startswith("file:///"):
            index = Path(word.removeprefix("file://"))
            # Pages of an index in files link to packages beside them.
            bring(index.parent if index.name == "simple" else index, folder)
        elif word.startswith("/"):
            bring(Path(word), folder)


def mirror() -> list[str]:
    """The mirror that this machine uses, if it is a Debian itself; else debootstrap knows one."""
    if shutil.which("apt-get") is None:
        return []
    form = "$(REPO_URI) $(RELEASE) $(ORIGIN)"
    told = run("apt-get", "indextargets", "--format", form, "Created-By: Packages")
    found = [line.split() for line in told.splitlines()]
    return [words[0] for words in found if words[1:] == [RELEASE, "Debian"]][:1]


def pip_options() -> dict[str, str]:
    """What is configured for pip here, by files and by the environment, which wins."""
    found: dict[str, str] = {}
    for line in run(sys.executable, "-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        words = " ".join(str(ast.literal_eval(value)).split())
        option = name.rpartition(".")[2]
        found[option] = words if name.startswith(":env:") else found.get(option, words)
    return found


def bring(path: Path, folder: Path) -> None:
    """Have a file or folder of this machine in the chroot, under the same name."""
    there = folder / path.relative_to("/")
    if path.is_dir():
        there.mkdir(parents=True, exist_ok=True)
        run("mount", "--bind", "-o", "ro", path, there)
    elif path.is_file():
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, there)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((SECOND_MACHINE, 0))
        port: int = probe.getsockname()[1]
        return port


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def logged(*command: str) -> None:
    """Run what talks much; show the end of it when it fails."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode != 0:
        lines = done.stdout.decode(errors="replace").splitlines()
        print("\n".join(lines[-20:]), file=sys.stderr)
        raise SystemExit(f"newcomer: {command[0]} failed; is there a network?")


def follow(command: list[str]) -> str:
    """Run it and show what it prints as it comes; return all of it."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace")
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    process.wait()
    return "".join(lines)


def judge(taken: list[Taken], wanted: int) -> int:
    """Print a line for each step, with its seconds; the exit code."""
    print()
    for each in taken:
        first = each.step.text.splitlines()[0]
        print(f"{each.seconds:6.1f} s  {each.fault or 'as it should':12}  {first}")
    if taken:
        print(f"the first command took {taken[0].seconds:.1f} s")
    good = len(taken) == wanted and not any(each.fault for each in taken)
    print("the README holds" if good else "THE README DOES NOT HOLD")
    return 0 if good else 1


def say(text: str) -> None:
    print(f"newcomer: {text}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        sys.exit(inside(Path(sys.argv[2]), "--all" in sys.argv))
    main()
