"""What happens when Python starts, and what importing the package brings along."""

import subprocess
import sys


def loaded(code: str) -> set[str]:
    code += "\nimport sys; print(' '.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_a_process_that_uses_none_of_this_loads_only_the_hook():
    ours = {name for name in loaded("pass") if name.startswith("mmenc_plugin")}
    assert ours == {"mmenc_plugin", "mmenc_plugin.autoload"}


def test_the_hook_adds_no_module_of_others():
    bare = subprocess.run(
        [sys.executable, "-I", "-S", "-c", "import sys; print(' '.join(sys.modules))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    code = f"import sys; sys.path[:0] = {sys.path!r}; import mmenc_plugin.autoload"
    code += "; print(' '.join(sys.modules))"
    hooked = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert {
        m for m in set(hooked.stdout.split()) - set(bare.stdout.split()) if not m.startswith("mmenc_plugin")
    } == set()


def test_importing_the_package_imports_neither_torch_nor_numpy():
    assert not loaded("import mmenc_plugin") & {"torch", "numpy", "recbole"}


def test_help_and_version_come_without_torch():
    code = "from mmenc_plugin.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert not loaded(code) & {"torch", "numpy", "recbole"}
