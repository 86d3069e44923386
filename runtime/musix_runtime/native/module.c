/* The module musix_runtime.kernels: the inner loops of an answer. kernels.pyi says what each of them takes and gives.
 */

#include "arrays.h"

static int fill_module(PyObject *module) {
    PyObject *index = index_type(module), *pool = pool_type(module);
    int failed = !index || !pool || PyModule_AddObjectRef(module, "Index", index) < 0 ||
                 PyModule_AddObjectRef(module, "Pool", pool) < 0 || PyModule_AddFunctions(module, text_functions) < 0 ||
                 PyModule_AddFunctions(module, pool_functions) < 0 ||
                 PyModule_AddFunctions(module, ranker_functions) < 0;
    Py_XDECREF(index);
    Py_XDECREF(pool);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)fill_module}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "musix_runtime.kernels", NULL, 0, NULL, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_kernels(void) { return PyModuleDef_Init(&definition); }
