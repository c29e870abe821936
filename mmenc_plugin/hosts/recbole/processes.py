"""RecBole's runs of several processes, and their repairs; `repair.REPAIRS` says where and why those are applied."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def cpu_processes(module: Any) -> None:
    """Several processes without a GPU: RecBole knows only nccl."""
    original = module.Config._init_device

    def _init_device(self: Any) -> None:
        import torch

        final = self.final_config_dict
        if "local_rank" not in final or torch.cuda.is_available():
            return original(self)  # type: ignore[no-any-return]
        final["gpu_id"] = ""
        final["device"] = torch.device("cpu")
        final["single_spec"] = False
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group(
                backend="gloo",
                rank=final["local_rank"] + final["offset"],
                world_size=final["world_size"],
                init_method=f"tcp://{final['ip']}:{final['port']}",
            )
        if final["local_rank"] != 0:
            final.update(state="error", show_progress=False, verbose=False)
        return None

    module.Config._init_device = _init_device


def torchrun(module: Any) -> None:
    """Processes that torchrun has started train together, as those of `--nproc` do; RecBole takes each for itself."""
    original = module.run_recbole

    @functools.wraps(original)
    def run_recbole(*args: Any, config_dict: Any = None, **kwargs: Any) -> Any:
        return original(*args, config_dict=_from_torchrun() | (config_dict or {}) or None, **kwargs)

    module.run_recbole = run_recbole


def _from_torchrun() -> dict[str, Any]:
    """What RecBole calls this process's place among those of torchrun; nothing for a process alone."""
    env = os.environ
    if int(env.get("WORLD_SIZE", 1)) < 2 or not {"RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} <= set(env):
        return {}
    local, here = int(env["LOCAL_RANK"]), int(env.get("LOCAL_WORLD_SIZE", env["WORLD_SIZE"]))
    return {
        "local_rank": local,
        "offset": int(env["RANK"]) - local,
        "world_size": int(env["WORLD_SIZE"]),
        "nproc": here,
        "ip": env["MASTER_ADDR"],
        "port": env["MASTER_PORT"],
        "gpu_id": env.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(here))),
    }


def ddp_on_cpu(module: Any) -> None:
    """A model on the CPU has no device's number."""
    original = module.DistributedDataParallel

    def wrap(model: Any, device_ids: Any = None, **kwargs: Any) -> Any:
        on_cpu = all(p.device.type == "cpu" for p in model.parameters())
        return original(model, device_ids=None if on_cpu else device_ids, **kwargs)

    module.DistributedDataParallel = wrap


def one_checkpoint(module: Any) -> None:
    """All processes load the file that the first one writes, once it is written.

    RecBole names the file by the second in each process, and lets the others read it at any time.
    """
    import torch.distributed as dist

    trainer = module.Trainer
    init, save = trainer.__init__, trainer._save_checkpoint

    def __init__(self: Any, config: Any, model: Any) -> None:  # noqa: N807
        init(self, config, model)
        if not config["single_spec"]:
            name = [self.saved_model_file]
            dist.broadcast_object_list(name, src=0)
            self.saved_model_file = name[0]

    def _save_checkpoint(self: Any, *args: Any, **kwargs: Any) -> None:
        save(self, *args, **kwargs)
        if not self.config["single_spec"]:
            dist.barrier()

    trainer.__init__, trainer._save_checkpoint = __init__, _save_checkpoint


def folders_of_several(module: Any) -> None:
    """Another process may make the folder between the look and the making."""
    module.ensure_dir = functools.partial(os.makedirs, exist_ok=True)


def gathered(rows: Tensor | None, config: Any) -> list[Tensor]:
    """What every process of the run has, in their order; where one has nothing it is left out."""
    everywhere = [rows]
    if not config["single_spec"]:
        import torch.distributed as dist

        everywhere = [None] * dist.get_world_size()
        dist.all_gather_object(everywhere, rows)
    return [part for part in everywhere if part is not None]
