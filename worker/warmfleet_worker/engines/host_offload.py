"""KV tiers on a vLLM that runs on the CPU, where vLLM's own copy kernels refuse to.

Runs inside the engine, not in the agent: put this package on its PYTHONPATH and name the class in
``--kv-transfer-config`` (``spec_name: HostTieringSpec``, ``spec_module_path: warmfleet_worker.engines.host_offload``).
Only the copy between the cache and the host tier is replaced, by a copy within memory; scheduling, tiers, events and
metrics are vLLM's (0.32). On accelerators use vLLM's TieringOffloadingSpec.

One chunk of the host tier is ``b`` blocks of the cache, side by side: block number i of a request is at
``chunk[i // b], slot i % b``, and the first block of a transfer may start in the middle of a chunk.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from vllm.v1.kv_offload.base import OffloadingWorker, TransferResult
from vllm.v1.kv_offload.cpu.shared_offload_region import SharedOffloadRegion
from vllm.v1.kv_offload.tiering.spec import TieringOffloadingSpec


class HostCopier(OffloadingWorker):  # type: ignore[misc]
    """Copies blocks between the cache and the host tier, at once.

    Args:
        kv_caches: The engine's cache (vLLM's CanonicalKVCaches).
        blocks_per_chunk: Blocks of the cache in one chunk of the host tier.
        region: The host tier.
    """

    def __init__(self, kv_caches: Any, blocks_per_chunk: int, region: Any) -> None:
        self._groups = kv_caches.group_data_refs
        self._blocks_per_chunk = blocks_per_chunk
        self._region = region
        self._finished: list[Any] = []
        self._cache = [t.tensor for t in kv_caches.tensors]  # [block, byte], perhaps with gaps
        self._host = [self._slots(t.page_size_bytes) for t in kv_caches.tensors]

    def _slots(self, page: int) -> torch.Tensor:
        """The host tier's part for one tensor as [chunk, slot, byte]."""
        rows = self._region.create_next_worker_view(page * self._blocks_per_chunk)
        shape = (rows.shape[0], self._blocks_per_chunk, page)
        return rows.as_strided(shape, (rows.stride(0), page, 1), rows.storage_offset())

    def submit_store(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        """Copy from the cache to the host tier."""
        return self._copy(job_id, src_spec, dst_spec.chunk_ids, to_host=True)

    def submit_load(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        """Copy from the host tier to the cache."""
        return self._copy(job_id, dst_spec, src_spec.chunk_ids, to_host=False)

    def _copy(self, job_id: int, blocks: Any, chunk_ids: Any, *, to_host: bool) -> bool:
        began, copied = time.perf_counter(), 0
        for refs, block, chunk, slot in self._runs(blocks, chunk_ids):
            for ref in refs:
                cache, host, page = self._cache[ref.tensor_idx], self._host[ref.tensor_idx], ref.page_size_bytes
                if to_host:
                    host[chunk, slot, :page] = cache[block, :page]
                else:
                    cache[block, :page] = host[chunk, slot, :page]
                copied += page * len(block)
        seconds = time.perf_counter() - began
        self._finished.append(TransferResult(job_id, success=True, transfer_size=copied, transfer_time=seconds))
        return True

    def _runs(self, blocks: Any, chunk_ids: Any) -> Iterator[tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Per KV cache group: its tensors, and block, chunk and slot of each copy."""
        size = self._blocks_per_chunk
        first_block = first_chunk = 0
        for refs, count, index in zip(self._groups, blocks.group_sizes, blocks.block_indices, strict=True):
            if not count:
                continue
            places = torch.arange(count) + index % size
            chunks = -(-(count + int(index) % size) // size)
            mine = torch.as_tensor(chunk_ids[first_chunk : first_chunk + chunks]).long()
            block = torch.as_tensor(blocks.block_ids[first_block : first_block + count]).long()
            yield refs, block, mine[places // size], places % size
            first_block, first_chunk = first_block + count, first_chunk + chunks

    def get_finished(self) -> list[Any]:
        """Results since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def wait(self, job_ids: set[int]) -> None:
        """Nothing to wait for."""

    def shutdown(self) -> None:
        """Let go of the host tier."""
        self._host.clear()
        self._cache.clear()
        region, self._region = self._region, None
        if region is not None:
            region.cleanup()


class HostTieringSpec(TieringOffloadingSpec):  # type: ignore[misc]
    """vLLM's tiers with :class:`HostCopier` in place of its accelerator copies."""

    _worker: Any = None

    def get_worker(self, kv_caches: Any) -> Any:
        """The worker's side."""
        if self._worker is None:
            region = SharedOffloadRegion(
                engine_id=self._engine_id,
                num_chunks=self.num_chunks,
                rank=self.config.parallel.rank,
                kv_bytes_per_chunk=self.kv_bytes_per_chunk,
                cpu_page_size=self.cpu_page_size_per_worker,
            )
            self._worker = HostCopier(kv_caches, self.blocks_per_chunk, region)
        return self._worker
