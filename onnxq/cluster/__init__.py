"""Work on the workers of a Dask cluster: the second implementation of `onnxq.runtime.parallel.Executor`."""
