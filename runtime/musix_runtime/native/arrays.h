/* Arrays: the arguments of the kernels, as buffers from numpy, checked for type and length. */

#ifndef MUSIX_ARRAYS_H
#define MUSIX_ARRAYS_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>

/* Built for several processors where that can be done; which of them runs makes no difference to what is found, as sums
   are taken in one fixed order and without fused multiply-add (-ffp-contract=off). */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12 && !defined(PORTABLE)
#include <immintrin.h>
#define FAST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#else
#define FAST
#endif

#ifndef __GNUC__
#define __builtin_prefetch(address) ((void)(address))
#endif

typedef struct {
    Py_buffer buffer;
    Py_ssize_t length; /* in items */
    int held;          /* else it was None, and is empty */
} Array;

/* One argument: its name in messages, the letter of its items in the notation of `struct`, and whether it is written.
 */
typedef struct {
    const char *name;
    char kind;
    int writable;
} Form;

#define DATA(array, type) ((type *)(array).buffer.buf)

/* Take the arrays of a call. Whether all are what their forms say; else an exception is set, and none is held. */
int take(PyObject *const *given, const Form *forms, Py_ssize_t count, Array *arrays);
void release(Array *arrays, Py_ssize_t count);

/* Whether it holds; else ValueError is set: expected `what`. */
int expect(int holds, const char *what);
int arguments(Py_ssize_t found, Py_ssize_t wanted);

#define FUNCTION(NAME) {#NAME, (PyCFunction)(void (*)(void))NAME, METH_FASTCALL, NULL}
#define METHOD(NAME, CALL) {NAME, (PyCFunction)(void (*)(void))CALL, METH_FASTCALL, NULL}

extern PyMethodDef text_functions[], pool_functions[], ranker_functions[];
PyObject *index_type(PyObject *module);
PyObject *pool_type(PyObject *module);

#endif
