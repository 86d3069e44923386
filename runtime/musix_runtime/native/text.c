/* Text: keys and strings looked up and read where they stand. */

#include "arrays.h"

#include <string.h>

static Py_ssize_t place_of(const char *keys, Py_ssize_t count, Py_ssize_t width, const char *key, Py_ssize_t length) {
    if (length == 0 || length > width || memchr(key, 0, length)) return -1;
    Py_ssize_t low = 0, high = count;
    while (low < high) {
        Py_ssize_t middle = (low + high) / 2;
        const char *there = keys + middle * width;
        int order = memcmp(there, key, length);
        if (order == 0 && length < width && there[length]) order = 1; /* longer than the key, which NULs would pad */
        if (order == 0) return middle;
        if (order < 0) low = middle + 1;
        else high = middle;
    }
    return -1;
}

static PyObject *find(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    static const Form forms[] = {{"keys", 's', 0}};
    Array keys;
    if (!arguments(count, 2) || !take(given, forms, 1, &keys)) return NULL;
    Py_ssize_t length, place = -1;
    const char *key = PyUnicode_AsUTF8AndSize(given[1], &length);
    if (key) place = place_of(keys.buffer.buf, keys.length, keys.buffer.itemsize, key, length);
    release(&keys, 1);
    if (!key) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) return NULL;
        PyErr_Clear(); /* a lone surrogate: no key is one */
    }
    return PyLong_FromSsize_t(place);
}

static int fill_texts(PyObject *list, const char *data, const int64_t *offsets, Py_ssize_t width, Py_ssize_t bytes,
                      const int64_t *rows, Py_ssize_t count) {
    for (Py_ssize_t i = 0; i < count; i++) {
        int64_t start = offsets ? offsets[rows[i]] : rows[i] * width,
                stop = offsets ? offsets[rows[i] + 1] : start + width;
        if (!expect(0 <= start && start <= stop && stop <= bytes, "texts within their data")) return 0;
        const char *end = offsets ? NULL : memchr(data + start, 0, width);
        PyObject *text = PyUnicode_DecodeUTF8(data + start, (end ? end - data : stop) - start, NULL);
        if (!text || PyList_SetItem(list, i, text) < 0) return 0;
    }
    return 1;
}

static PyObject *texts_of(const Array *data, const Array *offsets, const Array *rows) {
    Py_ssize_t width = data->buffer.itemsize, most = offsets ? offsets->length - 1 : data->length;
    const int64_t *wanted = rows->buffer.buf;
    for (Py_ssize_t i = 0; i < rows->length; i++)
        if (!expect(0 <= wanted[i] && wanted[i] < most, "rows that there are")) return NULL;
    for (Py_ssize_t i = 0; i < rows->length; i++)
        __builtin_prefetch(offsets ? (const char *)offsets->buffer.buf + 8 * wanted[i]
                                   : (const char *)data->buffer.buf + wanted[i] * width);
    if (offsets)
        for (Py_ssize_t i = 0; i < rows->length; i++)
            __builtin_prefetch((const char *)data->buffer.buf + ((const int64_t *)offsets->buffer.buf)[wanted[i]]);
    PyObject *list = PyList_New(rows->length);
    if (list && !fill_texts(list, data->buffer.buf, offsets ? offsets->buffer.buf : NULL, width, data->buffer.len,
                            wanted, rows->length)) {
        Py_DECREF(list);
        return NULL;
    }
    return list;
}

static PyObject *texts(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    static const Form forms[] = {{"data", 'B', 0}, {"offsets", 'l', 0}, {"rows", 'l', 0}};
    Array a[3];
    if (!arguments(count, 3) || !take(given, forms, 3, a)) return NULL;
    PyObject *found = texts_of(&a[0], &a[1], &a[2]);
    release(a, 3);
    return found;
}

static PyObject *keys_at(PyObject *self, PyObject *const *given, Py_ssize_t count) {
    static const Form forms[] = {{"keys", 's', 0}, {"rows", 'l', 0}};
    Array a[2];
    if (!arguments(count, 2) || !take(given, forms, 2, a)) return NULL;
    PyObject *found = texts_of(&a[0], NULL, &a[1]);
    release(a, 2);
    return found;
}

PyMethodDef text_functions[] = {FUNCTION(find), FUNCTION(texts), FUNCTION(keys_at), {NULL, NULL, 0, NULL}};
