const number = (value: number): string => value.toLocaleString('en');

/** A table of names and numbers. */
export function Counts(props: {
  readonly caption: string;
  readonly counts: Readonly<Record<string, number>>;
}) {
  const { caption, counts } = props;
  const entries = Object.entries(counts);
  if (entries.length === 0) return null;
  return (
    <table>
      <caption>{caption}</caption>
      <tbody>
        {entries.map(([name, count]) => (
          <tr key={name}>
            <th scope="row">{name}</th>
            <td class="number" data-count={name}>
              {number(count)}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
