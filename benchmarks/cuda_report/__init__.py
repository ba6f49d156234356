"""What the compiled GPU kernels are made of, and the time a stated model gives them on six GPUs.

Needs no GPU: the static part is read from the disassembly of liblowbit_cuda.so, the rest is arithmetic on
that and on the figures in gpus.py. Every time in it is an estimate.

    disassembly   cuobjdump -> functions: instructions, registers, shared memory
    loops         the hot loop of a function and what is in it
    kernels       what each kernel must contain, and how many weights an iteration covers
    static        one row per kernel and target of the library
    gpus          data sheets and assumptions
    estimate      the model
    codebooks     the codebook layers, and dequantising them instead
    tables        Markdown
"""
