"""The hand-written cells over whole sequences, forward and backward, without autograd inside.

The equations are those of cells.py, in another order of work: what the input brings to the gates
of all steps is one large product, so are the gradients of the weights, and only what depends on
h_{t-1} stands in the loop over time. On a CPU in float32 the loops are those of
kernels/recurrent.c; the classes below are the same for any device and type, and for machines
without a C compiler.

Dimensions: T steps, B reviews, I input size, H hidden size, G gates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from .backbones import Unrolled, refuse_second_derivative
from .cells import Cell, GRUCell, LSTMCell, RNNCell, State
from .kernels import Native, Weights
from .padding import padding_mask_like


Saved = tuple[Tensor, ...]  # what a forward pass keeps for the backward pass

# d (1 - y) y and d (1 - y^2): the gradients of sigmoid and tanh by their results.
sigmoid_back = torch.ops.aten.sigmoid_backward
tanh_back = torch.ops.aten.tanh_backward


class Fused(nn.Module):
    """One cell over time, with the calling convention of `Unrolled`, by the fastest way there is.

    On a GPU kernels/cuda.py chooses it. On a CPU the built-in cells have theirs here; for others
    kernels are generated from their step (kernels/cpu.py), or one line says why they are not.
    """

    def __init__(self, cell: Cell, native: bool = True) -> None:
        """`native=False` keeps to the portable passes on a CPU."""
        super().__init__()
        self.cell = cell
        self.native = native
        self.on_gpu: Any = None  # made where they are needed: they import a tracer
        self.on_cpu: Any = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the kernels, which no file and no other process can hold."""
        return {**super().__getstate__(), "on_gpu": None, "on_cpu": None}

    def forward(
        self, x_TBI: Tensor, state: State | None = None, lengths_B: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Output h_TBH of every step and the state after the last; without a state, from zeros.

        With `lengths_B` (int64 steps, 1 to T) a review's state stays as it is after its own last
        step: so do its outputs, and what stands in x after that is never read. The computation is
        in the type of the weights, under autocast too. Gradients have no gradients: asking for
        them raises RuntimeError. Raises ValueError where shapes do not fit the cell.
        """
        cell = self.cell
        if state is None:
            state = cell.initial_state(x_TBI.shape[1])
        self._check(x_TBI, state, lengths_B)
        dtype = next(cell.parameters()).dtype
        with torch.autocast(x_TBI.device.type, enabled=False):
            x_TBI, *first = (tensor.to(dtype).contiguous() for tensor in (x_TBI, *state))
            if lengths_B is not None:
                lengths_B = lengths_B.to(x_TBI.device, torch.int64).contiguous()
            if x_TBI.is_cuda:
                return self._on_gpu(x_TBI, tuple(first), lengths_B)
            if type(cell) not in PORTABLE:
                return self._on_cpu(x_TBI, tuple(first), lengths_B)
            weights = Weights(cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh)
            inputs = [x_TBI, *first]
            keep = torch.is_grad_enabled()
            passes = self._passes(*weights, *inputs)
            h_TBH, *last = WholeSequence.apply(passes, keep, lengths_B, *weights, *inputs)
        return h_TBH, tuple(last)

    def _on_gpu(
        self, x_TBI: Tensor, state: State, lengths_B: Tensor | None
    ) -> tuple[Tensor, State]:
        if self.on_gpu is None:
            from .kernels.cuda import CudaSequence

            self.on_gpu = CudaSequence(self.cell, unrolled)
        return self.on_gpu(x_TBI, state, lengths_B)

    def _on_cpu(
        self, x_TBI: Tensor, state: State, lengths_B: Tensor | None
    ) -> tuple[Tensor, State]:
        if self.on_cpu is None:
            from .kernels.cpu import CpuSequence

            self.on_cpu = CpuSequence(self.cell, unrolled, self.native)
        return self.on_cpu(x_TBI, state, lengths_B)

    def _check(self, x_TBI: Tensor, state: State, lengths_B: Tensor | None) -> None:
        """The kernels take addresses: nothing after this looks at sizes again."""
        T, B, I = x_TBI.shape
        cell = self.cell
        if T == 0 or I != cell.input_size:
            shape = tuple(x_TBI.shape)
            raise ValueError(f"x is {shape}; it is (T, B, {cell.input_size}) with one step or more")
        if [tuple(s.shape) for s in state] != [(B, cell.hidden_size)] * cell.states:
            shapes = [tuple(s.shape) for s in state]
            raise ValueError(f"the state is {shapes}, not {cell.states} of {(B, cell.hidden_size)}")
        if lengths_B is not None and lengths_B.shape != (B,):
            raise ValueError(f"lengths are {tuple(lengths_B.shape)}, not ({B},)")

    def _passes(self, *tensors: Tensor) -> Any:
        passes = None
        kinds = {(tensor.device.type, tensor.dtype) for tensor in tensors}
        if self.native and kinds == {("cpu", torch.float32)}:
            passes = Native.of(self.cell)
        return passes or PORTABLE[type(self.cell)](self.cell)


def unrolled(
    cell: Cell, x_TBI: Tensor, state: State, lengths_B: Tensor | None
) -> tuple[Tensor, State]:
    return Unrolled(cell)(x_TBI, state, lengths_B)


class WholeSequence(torch.autograd.Function):
    """A node of autograd's graph whose two halves are the `forward` and `backward` of `passes`."""

    @staticmethod
    def forward(
        ctx: Any, passes: Any, keep: bool, lengths_B: Tensor | None, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        weights, x_TBI, state = Weights(*tensors[:4]), tensors[4], tensors[5:]
        h_TBH, last, saved = passes.forward(x_TBI, weights, state, lengths_B, keep)
        if keep:
            ctx.passes = passes
            ctx.states = len(state)
            ctx.save_for_backward(lengths_B, *tensors, h_TBH, *saved)
        return h_TBH, *last

    @staticmethod
    def backward(ctx: Any, grad_h_TBH: Tensor, *grad_last: Tensor) -> tuple[Any, ...]:
        refuse_second_derivative()
        lengths_B, *tensors = ctx.saved_tensors
        weights, x_TBI, tensors = Weights(*tensors[:4]), tensors[4], tensors[5:]
        state, h_TBH, saved = tensors[: ctx.states], tensors[ctx.states], tensors[ctx.states + 1 :]
        wants_x = ctx.needs_input_grad[7]
        grad_x_TBI, grad_weights, grad_state = ctx.passes.backward(
            x_TBI, weights, state, lengths_B, h_TBH, saved, grad_h_TBH, grad_last, wants_x
        )
        return None, None, None, *grad_weights, grad_x_TBI, *grad_state


class Loop(NamedTuple):
    """What a loop backwards over time leaves for the large products."""

    grad_input_TBG: Tensor  # of W x + b_ih
    grad_state_TBG: Tensor  # of U h + b_hh
    grad_state: State  # of the first state


class Portable:
    """Passes in PyTorch's own operations. Abstract: a cell defines its two loops over time."""

    def __init__(self, cell: Cell) -> None:
        pass

    def forward(
        self, x_TBI: Tensor, weights: Weights, state: State, lengths_B: Tensor | None, keep: bool
    ) -> tuple[Tensor, State, Saved]:
        """Output h_TBH, the last state, and what `backward` needs besides."""
        padding_TB1 = padding_mask_like(x_TBI, lengths_B)
        if padding_TB1 is not None:
            x_TBI = x_TBI.masked_fill(padding_TB1, 0)  # whatever stands there
        gates_TBG = linear(x_TBI, weights.input, self.bias(weights))
        h_TBH = x_TBI.new_empty(*x_TBI.shape[:2], weights.state.shape[1])
        last, saved = self.loop(gates_TBG, weights, state, padding_TB1, h_TBH)
        return h_TBH, tuple(s.clone() for s in last), saved

    def backward(
        self,
        x_TBI: Tensor,
        weights: Weights,
        state: State,
        lengths_B: Tensor | None,
        h_TBH: Tensor,
        saved: Saved,
        grad_h_TBH: Tensor,
        grad_last: State,
        wants_x: bool,
    ) -> tuple[Tensor | None, Weights, State]:
        """Gradients of the input (None unless `wants_x`), of the weights and of the first state."""
        padding_TB1 = padding_mask_like(x_TBI, lengths_B)
        if padding_TB1 is not None:
            x_TBI = x_TBI.masked_fill(padding_TB1, 0)
        before_TBH = torch.cat([state[0].unsqueeze(0), h_TBH[:-1]])
        loop = self.loop_back(
            weights, state, padding_TB1, before_TBH, h_TBH, saved, grad_h_TBH, grad_last
        )
        grad_weights = Weights(
            outer(loop.grad_input_TBG, x_TBI),
            self.grad_state_weights(loop.grad_state_TBG, before_TBH, saved),
            loop.grad_input_TBG.sum((0, 1)),
            loop.grad_state_TBG.sum((0, 1)),
        )
        grad_x_TBI = loop.grad_input_TBG @ weights.input if wants_x else None
        return grad_x_TBI, grad_weights, loop.grad_state

    def bias(self, weights: Weights) -> Tensor:
        """What is added to the gates of all steps at once: all that the loop does not add."""
        return weights.input_bias + weights.state_bias

    def loop(
        self,
        gates_TBG: Tensor,
        weights: Weights,
        state: State,
        padding_TB1: Tensor | None,
        h_TBH: Tensor,
    ) -> tuple[State, Saved]:
        """Fill h_TBH; gates_TBG holds W x + bias and may be written to.

        Returns the last state and what is saved.
        """
        raise NotImplementedError

    def loop_back(
        self,
        weights: Weights,
        state: State,
        padding_TB1: Tensor | None,
        before_TBH: Tensor,
        h_TBH: Tensor,
        saved: Saved,
        grad_h_TBH: Tensor,
        grad_last: State,
    ) -> Loop:
        raise NotImplementedError

    def grad_state_weights(
        self, grad_state_TBG: Tensor, before_TBH: Tensor, saved: Saved
    ) -> Tensor:
        return outer(grad_state_TBG, before_TBH)


def stay(padding_TB1: Tensor | None, t: int, next_BH: Tensor, before_BH: Tensor) -> None:
    """Where a review has ended, its state before the step is that after it."""
    if padding_TB1 is not None:
        torch.where(padding_TB1[t], before_BH, next_BH, out=next_BH)


def through(padding_TB1: Tensor | None, t: int, dh_BH: Tensor, next_BH: Tensor) -> Tensor:
    """The same backwards: there the gradient goes through the step unchanged."""
    return next_BH if padding_TB1 is None else next_BH + dh_BH * padding_TB1[t]


def outer(d_TBG: Tensor, left_TBX: Tensor) -> Tensor:
    """Sum over all steps and reviews of d left^T: the gradient (G, X) of weights."""
    return d_TBG.flatten(0, 1).T @ left_TBX.flatten(0, 1)


def above(grad_h_TBH: Tensor) -> Tensor:
    """Gradient of the output of the step before; none before the first."""
    return torch.cat([torch.zeros_like(grad_h_TBH[:1]), grad_h_TBH[:-1]])


def steps(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """The parts of each step."""
    return list(zip(*(tensor.unbind() for tensor in tensors), strict=True))


def enumerate_back(all_steps: list[tuple[Tensor, ...]]) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
    """(t, step), the last first."""
    return reversed(list(enumerate(all_steps)))


class PortableRNN(Portable):
    def loop(
        self,
        gates_TBG: Tensor,
        weights: Weights,
        state: State,
        padding_TB1: Tensor | None,
        h_TBH: Tensor,
    ) -> tuple[State, Saved]:
        (h_BH,) = state
        for t, (sum_BH, next_BH) in enumerate(steps(gates_TBG, h_TBH)):
            torch.tanh(sum_BH.addmm_(h_BH, weights.state.T), out=next_BH)
            stay(padding_TB1, t, next_BH, h_BH)
            h_BH = next_BH
        return (h_BH,), ()

    def loop_back(
        self,
        weights: Weights,
        state: State,
        padding_TB1: Tensor | None,
        before_TBH: Tensor,
        h_TBH: Tensor,
        saved: Saved,
        grad_h_TBH: Tensor,
        grad_last: State,
    ) -> Loop:
        d_TBH = 1 - h_TBH.square()  # what the gradient of h is multiplied by, then the product
        if padding_TB1 is not None:
            d_TBH.masked_fill_(padding_TB1, 0)
        dh_BH = grad_last[0] + grad_h_TBH[-1]
        for t, (d_BH, above_BH) in enumerate_back(steps(d_TBH, above(grad_h_TBH))):
            d_BH.mul_(dh_BH)
            dh_BH = through(padding_TB1, t, dh_BH, torch.addmm(above_BH, d_BH, weights.state))
        return Loop(d_TBH, d_TBH, (dh_BH,))


class PortableLSTM(Portable):
    def loop(
        self,
        gates_TBG: Tensor,
        weights: Weights,
        state: State,
        padding_TB1: Tensor | None,
        h_TBH: Tensor,
    ) -> tuple[State, Saved]:
        H = h_TBH.shape[2]
        h_BH, c_BH = state
        weight_HG = weights.state.T.contiguous()
        c_TBH, squashed_TBH = torch.empty_like(h_TBH), torch.empty_like(h_TBH)
        all_steps = steps(
            gates_TBG, gates_TBG[..., : 2 * H], *gates_TBG.split(H, 2), c_TBH, squashed_TBH, h_TBH
        )
        for t, (sums, both, i, f, g, o, next_c, squashed, next_h) in enumerate(all_steps):
            sums.addmm_(h_BH, weight_HG)
            both.sigmoid_()
            g.tanh_()
            o.sigmoid_()
            torch.mul(f, c_BH, out=next_c).addcmul_(i, g)
            stay(padding_TB1, t, next_c, c_BH)
            torch.tanh(next_c, out=squashed)
            torch.mul(o, squashed, out=next_h)
            stay(padding_TB1, t, next_h, h_BH)
            h_BH, c_BH = next_h, next_c
        return (h_BH, c_BH), (gates_TBG, c_TBH, squashed_TBH)

    def loop_back(
        self,
        weights: Weights,
        state: State,
        padding_TB1: Tensor | None,
        before_TBH: Tensor,
        h_TBH: Tensor,
        saved: Saved,
        grad_h_TBH: Tensor,
        grad_last: State,
    ) -> Loop:
        gates_TBG, c_TBH, squashed_TBH = saved
        T, B, H = h_TBH.shape
        i, f, g, o = gates_TBG.split(H, 2)
        before_c_TBH = torch.cat([state[1].unsqueeze(0), c_TBH[:-1]])
        # What the gradients of c (for i, f, g) and h (for o) are multiplied by, then the products.
        d_TBG = torch.empty_like(gates_TBG)
        d_i, d_f, d_g, d_o = d_TBG.split(H, 2)
        sigmoid_back.grad_input(g, i, grad_input=d_i)
        sigmoid_back.grad_input(before_c_TBH, f, grad_input=d_f)
        tanh_back.grad_input(i, g, grad_input=d_g)
        sigmoid_back.grad_input(squashed_TBH, o, grad_input=d_o)
        to_c_TBH = tanh_back(o, squashed_TBH)
        if padding_TB1 is not None:
            d_TBG.masked_fill_(padding_TB1, 0)
            to_c_TBH.masked_fill_(padding_TB1, 0)
            f = f.masked_fill(padding_TB1, 1)
        dh_BH, dc_BH = grad_last[0] + grad_h_TBH[-1], grad_last[1].clone()
        all_steps = steps(
            d_TBG, d_TBG.view(T, B, 4, H)[:, :, :3], d_o, to_c_TBH, f, above(grad_h_TBH)
        )
        for t, (d_BG, d_ifg, d_o_BH, to_c_BH, f_BH, above_BH) in enumerate_back(all_steps):
            dc_BH.addcmul_(dh_BH, to_c_BH)
            d_ifg.mul_(dc_BH.unsqueeze(1))
            d_o_BH.mul_(dh_BH)
            dc_BH.mul_(f_BH)
            dh_BH = through(padding_TB1, t, dh_BH, torch.addmm(above_BH, d_BG, weights.state))
        return Loop(d_TBG, d_TBG, (dh_BH, dc_BH))


class PortableGRU(Portable):
    """Both resets. They share all but the candidate's product with the state."""

    def __init__(self, cell: Cell) -> None:
        assert isinstance(cell, GRUCell)
        self.before = cell.reset == "before"

    def bias(self, weights: Weights) -> Tensor:
        if self.before:
            return super().bias(weights)
        without_n = weights.state_bias.clone()
        without_n[2 * len(without_n) // 3 :] = 0
        return weights.input_bias + without_n

    def loop(
        self,
        gates_TBG: Tensor,
        weights: Weights,
        state: State,
        padding_TB1: Tensor | None,
        h_TBH: Tensor,
    ) -> tuple[State, Saved]:
        H = h_TBH.shape[2]
        (h_BH,) = state
        weight_rz_HG = weights.state[: 2 * H].T.contiguous()
        weight_n_HH = weights.state[2 * H :].T.contiguous()
        bias_n_H = weights.state_bias[2 * H :]
        product_TBH = torch.empty_like(h_TBH)  # before: r * h; after: U_n h + b_hn
        all_steps = steps(gates_TBG[..., : 2 * H], *gates_TBG.split(H, 2), product_TBH, h_TBH)
        for t, (rz, r, z, n, product, next_h) in enumerate(all_steps):
            rz.addmm_(h_BH, weight_rz_HG).sigmoid_()
            if self.before:
                n.addmm_(torch.mul(r, h_BH, out=product), weight_n_HH)
            else:
                n.addcmul_(r, torch.addmm(bias_n_H, h_BH, weight_n_HH, out=product))
            n.tanh_()
            torch.sub(h_BH, n, out=next_h).mul_(z).add_(n)
            stay(padding_TB1, t, next_h, h_BH)
            h_BH = next_h
        return (h_BH,), (gates_TBG, product_TBH)

    def loop_back(
        self,
        weights: Weights,
        state: State,
        padding_TB1: Tensor | None,
        before_TBH: Tensor,
        h_TBH: Tensor,
        saved: Saved,
        grad_h_TBH: Tensor,
        grad_last: State,
    ) -> Loop:
        gates_TBG, product_TBH = saved
        H = h_TBH.shape[2]
        r, z, n = gates_TBG.split(H, 2)
        # What the gradient of h is multiplied by (before, for r: that of r * h), then the products.
        d_TBG = torch.empty_like(gates_TBG)
        d_r, d_z, d_n = d_TBG.split(H, 2)
        tanh_back.grad_input(1 - z, n, grad_input=d_n)
        sigmoid_back.grad_input(before_TBH - n, z, grad_input=d_z)
        if self.before:
            sigmoid_back.grad_input(before_TBH, r, grad_input=d_r)
            d_state_TBG = d_TBG
        else:
            sigmoid_back.grad_input(product_TBH * d_n, r, grad_input=d_r)
            d_state_TBG = torch.cat([d_TBG[..., : 2 * H], d_n * r], 2)
        if padding_TB1 is not None:
            d_TBG.masked_fill_(padding_TB1, 0)
            d_state_TBG.masked_fill_(padding_TB1, 0)
            z = z.masked_fill(padding_TB1, 1)
        dh_BH = grad_last[0] + grad_h_TBH[-1]
        if self.before:
            return self._back_before(weights, d_TBG, r, z, dh_BH, above(grad_h_TBH))
        return self._back_after(weights, d_TBG, d_state_TBG, z, dh_BH, above(grad_h_TBH))

    def _back_after(
        self,
        weights: Weights,
        d_TBG: Tensor,
        d_state_TBG: Tensor,
        z: Tensor,
        dh_BH: Tensor,
        above_TBH: Tensor,
    ) -> Loop:
        T, B, H = z.shape
        dh_TBH = torch.empty_like(above_TBH)
        all_steps = steps(d_state_TBG, d_state_TBG.view(T, B, 3, H), z, above_TBH, dh_TBH)
        for _, (d_BG, d_B3H, z_BH, above_BH, kept_BH) in enumerate_back(all_steps):
            kept_BH.copy_(dh_BH)
            d_B3H.mul_(dh_BH.unsqueeze(1))
            dh_BH = torch.addcmul(above_BH, dh_BH, z_BH).addmm_(d_BG, weights.state)
        d_TBG[..., : 2 * H] = d_state_TBG[..., : 2 * H]
        d_TBG[..., 2 * H :] *= dh_TBH
        return Loop(d_TBG, d_state_TBG, (dh_BH,))

    def _back_before(
        self,
        weights: Weights,
        d_TBG: Tensor,
        r: Tensor,
        z: Tensor,
        dh_BH: Tensor,
        above_TBH: Tensor,
    ) -> Loop:
        T, B, H = z.shape
        weight_rz_GH, weight_n_HH = weights.state[: 2 * H], weights.state[2 * H :]
        zn_TB2H = d_TBG.view(T, B, 3, H)[:, :, 1:]
        all_steps = steps(d_TBG[..., : 2 * H], zn_TB2H, *d_TBG.split(H, 2)[::2], r, z, above_TBH)
        for _, (d_rz, d_zn, d_r, d_n, r_BH, z_BH, above_BH) in enumerate_back(all_steps):
            d_zn.mul_(dh_BH.unsqueeze(1))
            dreset_BH = torch.mm(d_n, weight_n_HH)
            d_r.mul_(dreset_BH)
            dh_BH = torch.addcmul(above_BH, dh_BH, z_BH).addcmul_(dreset_BH, r_BH)
            dh_BH.addmm_(d_rz, weight_rz_GH)
        return Loop(d_TBG, d_TBG, (dh_BH,))

    def grad_state_weights(
        self, grad_state_TBG: Tensor, before_TBH: Tensor, saved: Saved
    ) -> Tensor:
        H = before_TBH.shape[2]
        left_TBH = saved[1] if self.before else before_TBH
        rz, n = grad_state_TBG[..., : 2 * H], grad_state_TBG[..., 2 * H :]
        return torch.cat([outer(rz, before_TBH), outer(n, left_TBH)])


PORTABLE: dict[type[Cell], type[Portable]] = {
    RNNCell: PortableRNN,
    LSTMCell: PortableLSTM,
    GRUCell: PortableGRU,
}
