"""All operator knowledge.

``table`` has a line for every operator: its rule, which says what positions of inputs and outputs have to do
with one another in the words of ``relations``, and its ``traits``. The rules lie by family. The rest of the
package asks: ``parameters`` for what is stored in a node, ``values`` for what an operator does with the
numbers that it gets, ``uniform`` for what is left of a node without channels.
"""
