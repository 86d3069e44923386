#include "arrays.h"

#include <string.h>

static char kind_of(const char *format) {
    if (format == NULL) return 'B';
    char last = format[strlen(format) - 1];
    return last == 'q' && sizeof(long) == 8 ? 'l' : last == 'l' && sizeof(long) == 4 ? 'i' : last;
}

void release(Array *arrays, Py_ssize_t count) {
    for (Py_ssize_t i = 0; i < count; i++)
        if (arrays[i].held) PyBuffer_Release(&arrays[i].buffer);
}

int take(PyObject *const *given, const Form *forms, Py_ssize_t count, Array *arrays) {
    memset(arrays, 0, sizeof(Array) * count);
    for (Py_ssize_t i = 0; i < count; i++) {
        if (given[i] == Py_None) continue;
        int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (forms[i].writable ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(given[i], &arrays[i].buffer, flags) < 0) {
            release(arrays, count);
            return 0;
        }
        arrays[i].held = 1;
        arrays[i].length = arrays[i].buffer.len / (arrays[i].buffer.itemsize ? arrays[i].buffer.itemsize : 1);
        char found = kind_of(arrays[i].buffer.format);
        if (found != forms[i].kind) {
            PyErr_Format(PyExc_TypeError, "%s: expected items of kind '%c', found '%c'", forms[i].name, forms[i].kind,
                         found);
            release(arrays, count);
            return 0;
        }
    }
    return 1;
}

int expect(int holds, const char *what) {
    if (!holds) PyErr_Format(PyExc_ValueError, "expected %s", what);
    return holds;
}

int arguments(Py_ssize_t found, Py_ssize_t wanted) {
    if (found != wanted) PyErr_Format(PyExc_TypeError, "expected %zd arguments, found %zd", wanted, found);
    return found == wanted;
}
