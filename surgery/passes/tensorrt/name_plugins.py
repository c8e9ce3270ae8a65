"""For TensorRT: call custom operators by the names of their plugins.

Given:  acme.Mystery(x), and ``acme.Mystery=MysteryPlugin:2`` from the user
Result: trt.plugins.MysteryPlugin(x), plugin_version "2", with all its attributes

TensorRT's parser looks for a plugin of the operator's name, and of the version and namespace that
the attributes ``plugin_version`` and ``plugin_namespace`` give; "1" and "" if they are not there.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxgraft.graph.operators import op_key, op_of, set_op
from onnxgraft.stages.surgery.running.rewrite import Context, Result

DOMAIN = "trt.plugins"


def apply(graph: gs.Graph, context: Context) -> Result:
    """Rename every operator that the user has mapped."""
    result = Result()
    for node in graph.nodes:
        domain, kind = op_key(node)
        for key in (op_of(node), kind):
            plugin = context.plugins.get(key)
            if plugin is not None and domain != DOMAIN:
                set_op(node, plugin.name, DOMAIN)
                node.attrs["plugin_version"] = plugin.version
                node.attrs["plugin_namespace"] = plugin.namespace
                result.did(node, f"{key} is the plugin {plugin.name} {plugin.version}")
                break
    if any(op_key(node)[0] == DOMAIN for node in graph.nodes):
        known = {entry.domain for entry in graph.import_domains or ()}
        if DOMAIN not in known:
            import onnx

            graph.import_domains = [
                *(graph.import_domains or ()), onnx.helper.make_opsetid(DOMAIN, 1),
            ]  # fmt: skip
    return result
